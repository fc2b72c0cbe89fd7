#!/bin/sh
# A wheel for older systems, into dist/: `make wheel`, linked with the libraries of Debian 11 (glibc
# 2.31, libstdc++ of GCC 10) instead of this machine's, which are newer. The compilers are this
# machine's, so the code is the same. Takes what is committed.
#
#     apt-get install debootstrap
#     sh tools/manylinux.sh .venv/bin/python     # as root, for debootstrap; that Python has torch
#
# DEBIAN11 names a folder that debootstrap has filled already, or fills.
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-python3}")
old=$(realpath -m "${DEBIAN11:-build/debian11}")
work=$PWD/build/manylinux

if [ ! -e "$old/usr/bin/g++" ]; then
  debootstrap --variant=minbase --include=g++ bullseye "$old"
fi
# Links that begin at / would lead out of the folder.
find "$old/usr/lib" "$old/usr/lib64" -lname '/*' | while read -r link; do
  target=$old$(readlink "$link")
  [ ! -e "$target" ] || ln -sfrn "$target" "$link"
done

rm -rf "$work"
mkdir -p "$work/source"
here=x86_64-linux-gnu
cat > "$work/g++" <<EOF
#!/bin/sh
exec $(command -v g++) --sysroot=$old -nostdinc++ -isystem $old/usr/include/c++/10 \\
  -isystem $old/usr/include/$here/c++/10 -B$old/usr/lib/$here \\
  -L$old/usr/lib/gcc/$here/10 -L$old/usr/lib/$here "\$@"
EOF
chmod +x "$work/g++"
git archive HEAD | tar -x -C "$work/source"
CXX=$work/g++ CUDAHOSTCXX=$work/g++ "$python" "$work/source/tools/wheel.py"
rm -rf dist
mv "$work/source/dist" dist
