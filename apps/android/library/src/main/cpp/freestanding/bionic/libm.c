/* Symbols of bionic's libm.so that the library needs, for the linker only: nothing of this file is shipped.
 */
void fmaf(void) {}
