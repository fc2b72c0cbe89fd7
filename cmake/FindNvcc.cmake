# Finds nvcc by its real home (a wrapper script on PATH is not it), checks it against torch, and says
# in one line what was decided. Sets SSSD_HAVE_CUDA. Never asks a GPU: there may be none here.

include(cmake/Architectures.cmake)

function(_sssd_without_cuda reason)
  message(STATUS "sssd: CPU kernels only: ${reason}")
  set(SSSD_HAVE_CUDA OFF PARENT_SCOPE)
endfunction()

macro(sssd_find_nvcc)
  set(SSSD_HAVE_CUDA OFF)
  # Not cached: who sets CUDA_HOME after a build without CUDA is heard.
  find_program(SSSD_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
    PATHS /usr/local/cuda/bin NO_CACHE)
  if(NOT SSSD_CUDA)
    _sssd_without_cuda("CUDA was switched off (SSSD_CUDA=0)")
  elseif(SSSD_TORCH_CUDA STREQUAL "")
    _sssd_without_cuda("the installed torch has no CUDA")
  elseif(NOT SSSD_CUDA_KERNELS)
    _sssd_without_cuda("no CUDA sources are listed")
  elseif(NOT SSSD_NVCC)
    _sssd_without_cuda("no nvcc on PATH, in CUDA_HOME or /usr/local/cuda (needs CUDA ${SSSD_TORCH_CUDA})")
  else()
    _sssd_use_nvcc()
  endif()
endmacro()

macro(_sssd_use_nvcc)
  execute_process(COMMAND ${SSSD_NVCC} --dryrun none.cu ERROR_VARIABLE _dryrun OUTPUT_QUIET)
  execute_process(COMMAND ${SSSD_NVCC} --version OUTPUT_VARIABLE _version ERROR_QUIET)
  string(REGEX MATCH "_HERE_=([^\r\n]+)" _match "${_dryrun}")
  set(_home "${CMAKE_MATCH_1}")
  string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" _match "${_version}")
  set(_nvcc_major "${CMAKE_MATCH_1}")
  set(_nvcc_version "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}")
  string(REGEX REPLACE "\\..*" "" _torch_major "${SSSD_TORCH_CUDA}")
  if(NOT EXISTS "${_home}/nvcc")
    _sssd_without_cuda("${SSSD_NVCC} does not tell where its toolkit is")
  elseif(NOT _nvcc_major STREQUAL _torch_major)
    _sssd_without_cuda("nvcc is CUDA ${_nvcc_version} but torch was built with CUDA ${SSSD_TORCH_CUDA}; set CUDA_HOME to a CUDA ${_torch_major} toolkit, or install a torch built with CUDA ${_nvcc_major}")
  else()
    sssd_choose_architectures("${_home}/nvcc")
    set(CMAKE_CUDA_COMPILER "${_home}/nvcc")
    set(CMAKE_CUDA_STANDARD 17)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    list(JOIN SSSD_REAL_ARCHITECTURES "," SSSD_REAL_LIST)  # as C++ has it
    list(JOIN SSSD_PTX_ARCHITECTURES "," SSSD_PTX_LIST)
    set(SSSD_HAVE_CUDA ON)
    message(STATUS "sssd: CPU and CUDA kernels, by ${_home}/nvcc (CUDA ${_nvcc_version}), "
      "for sm_${SSSD_REAL_LIST} and as PTX ${SSSD_PTX_LIST}")
  endif()
endmacro()
