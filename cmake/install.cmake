# The library, its headers, a CMake package and a pkg-config file, all of which may be moved together.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fastbn)
install(TARGETS fastbn EXPORT fastbnTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES csrc/include/fastbn/fastbn.h csrc/include/fastbn/fastbn.hpp
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fastbn)
install(EXPORT fastbnTargets NAMESPACE fastbn:: DESTINATION ${package_dir})
configure_package_config_file(cmake/fastbnConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/fastbnConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/fastbnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fastbnConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/fastbnConfigVersion.cmake
        DESTINATION ${package_dir})

# From the .pc file's folder up to the prefix, however many folders the library folder has.
file(RELATIVE_PATH pc_to_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")
configure_file(cmake/fastbn.pc.in ${CMAKE_CURRENT_BINARY_DIR}/fastbn.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fastbn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
