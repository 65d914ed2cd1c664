"""python setup.py build_ext --inplace: two modules from one source, compiled as C and as C++. Nothing is linked."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastbn


def module(name: str, language: str) -> Extension:
    return Extension(name, [f"{name}.pyx"], include_dirs=[fastbn.config.get_include()], language=language)


setup(
    name="fastbn_from_cython",
    ext_modules=cythonize(
        [module("perceptron_c", "c"), module("perceptron_cpp", "c++")],
        compiler_directives={"language_level": 3},
    ),
)
