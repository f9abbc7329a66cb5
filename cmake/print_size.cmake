file(SIZE ${FILE} bytes)
get_filename_component(name ${FILE} NAME)
message(STATUS "${name}: ${bytes} bytes")
