# The version: the last git tag "vX.Y.Z", with the commits since; in a build of the Python package as setuptools-scm writes it. Without git or a tag
# (a source archive) the fallback below.
set(BITLAB_VERSION "0.1.0-dev")
find_package(Git QUIET)
if(DEFINED SKBUILD_PROJECT_VERSION_FULL)
  set(BITLAB_VERSION ${SKBUILD_PROJECT_VERSION_FULL})
elseif(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} describe --tags --match "v[0-9]*" --dirty
                  WORKING_DIRECTORY ${CMAKE_CURRENT_LIST_DIR} OUTPUT_VARIABLE _described ERROR_QUIET
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(_described MATCHES "^v(.+)$")
    set(BITLAB_VERSION "${CMAKE_MATCH_1}")
  endif()
endif()
string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" BITLAB_VERSION_NUMBER "${BITLAB_VERSION}")
