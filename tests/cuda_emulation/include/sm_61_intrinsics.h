// Stand-in for CUDA's header of the same name: kernel.h has what it declares.
#pragma once
