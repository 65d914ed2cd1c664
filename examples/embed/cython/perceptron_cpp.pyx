# Compiled as C++.
# distutils: language = c++
include "perceptron.pxi"
