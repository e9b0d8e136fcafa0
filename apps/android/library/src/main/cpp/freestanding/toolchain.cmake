# Builds for Android with Debian's clang and lld and no NDK: EDGEBERT_ANDROID_ABI is arm64-v8a or x86_64.
# The headers are those of Debian's g++ and glibc; at run time the symbols resolve to the device's libc.so, for
# which bionic.c stands in at link time.
if(EDGEBERT_ANDROID_ABI STREQUAL "arm64-v8a")
  set(CMAKE_SYSTEM_PROCESSOR aarch64)
  set(headers /usr/aarch64-linux-gnu/include)
  set(cxx_headers ${headers}/c++/${EDGEBERT_GXX_VERSION} ${headers}/c++/${EDGEBERT_GXX_VERSION}/aarch64-linux-gnu)
elseif(EDGEBERT_ANDROID_ABI STREQUAL "x86_64")
  set(CMAKE_SYSTEM_PROCESSOR x86_64)
  set(headers /usr/include/x86_64-linux-gnu)
  set(cxx_headers /usr/include/c++/${EDGEBERT_GXX_VERSION}
      /usr/include/x86_64-linux-gnu/c++/${EDGEBERT_GXX_VERSION})
else()
  message(FATAL_ERROR "EDGEBERT_ANDROID_ABI is '${EDGEBERT_ANDROID_ABI}'; give arm64-v8a or x86_64")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGEBERT_ANDROID_ABI EDGEBERT_GXX_VERSION EDGEBERT_CLANG_RESOURCES)
set(EDGEBERT_FREESTANDING ON)
set(triple ${CMAKE_SYSTEM_PROCESSOR}-linux-android24)

set(flags "--target=${triple} -fno-exceptions -fno-rtti -nostdinc -nostdinc++ -fno-stack-protector -U__ANDROID__")
# glibc's own way of finding errno is not there on a device; see runtime.cpp.
string(APPEND flags " -U_GNU_SOURCE -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE -D__errno_location=edgebert_errno")
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
  string(APPEND flags " -ffixed-x18 -mno-outline-atomics")
endif()
foreach(folder ${cxx_headers} ${EDGEBERT_CLANG_RESOURCES}/include ${headers} /usr/include)
  string(APPEND flags " -isystem ${folder}")
endforeach()
set(CMAKE_CXX_FLAGS_INIT "${flags}")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "--target=${triple} -nostdlib -fuse-ld=lld ${EDGEBERT_BIONIC}")
