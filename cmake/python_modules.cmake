# fastbn._core (pybind11) and fastbn.kernels (Cython), both linked with the libfastbn that lies in lib/ beside them.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3 CONFIG REQUIRED)

pybind11_add_module(_core NO_EXTRAS
    csrc/bindings/module.cpp
    csrc/bindings/arrays.cpp
    csrc/bindings/runtime.cpp
    csrc/bindings/convolution.cpp
    csrc/bindings/dense.cpp
    csrc/bindings/normalization.cpp
    csrc/bindings/pooling.cpp
    csrc/bindings/pointwise.cpp
    csrc/bindings/losses.cpp
    csrc/bindings/optimizers.cpp
    csrc/bindings/graph.cpp
    csrc/bindings/program.cpp
    csrc/bindings/addresses.cpp)
# Each file would make pybind11's templates again, for most of its time: together they take a fifth of it.
set_target_properties(_core PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
target_compile_options(_core PRIVATE -Wall -Wextra -Wshadow $<$<BOOL:${FASTBN_WERROR}>:-Werror>)

# Cython's launcher need not be on the path; the module is in the build environment.
add_custom_command(
  OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/kernels.c
  COMMAND Python::Interpreter -m cython -3 --output-file ${CMAKE_CURRENT_BINARY_DIR}/kernels.c
          ${CMAKE_CURRENT_SOURCE_DIR}/fastbn/kernels.pyx
  DEPENDS fastbn/kernels.pyx fastbn/kernels.pxd
  VERBATIM)
python_add_library(kernels MODULE WITH_SOABI ${CMAKE_CURRENT_BINARY_DIR}/kernels.c)

foreach(module _core kernels)
  target_link_libraries(${module} PRIVATE fastbn)
  target_link_options(${module} PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/cmake/python_module.map)
  set_target_properties(${module} PROPERTIES INSTALL_RPATH "$ORIGIN/${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS ${module} LIBRARY DESTINATION .)
endforeach()
