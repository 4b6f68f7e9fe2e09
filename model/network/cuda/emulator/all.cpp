// The kernels and what runs them, as one library for tests.
#define INKSTONE_EMULATOR
#include "emulator.cpp"

#include "../kernels/all.cu"
