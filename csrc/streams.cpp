// String streams, with which torch's headers make messages, compiled in: their constructors are in
// libstdc++ since GCC 9 only, and nothing else here wants one that new (manylinux_2_28).
#include <sstream>

template class std::basic_ostringstream<char>;
template class std::basic_stringstream<char>;
