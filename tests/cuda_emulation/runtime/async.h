// Asynchronous copies and their barriers, as the PTX instructions that start them see them.
#pragma once

#include "../include/ptx.h"
#include "memory.h"
