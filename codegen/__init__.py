"""From tile programs to TensorIR and machine code. The only package that imports TVM's compiler."""
