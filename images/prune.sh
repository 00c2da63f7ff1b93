#!/bin/sh
# Takes out of a virtual environment what no step reads: the libraries' own tests, headers and static libraries, and Python's
# type stubs. What it does leave is compiled here, because a container with a read-only root cannot keep what it compiles.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
find "$packages" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.a' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete
rm -rf "$packages"/pyarrow/include "$packages"/pyarrow/src "$packages"/torch/include
"$1"/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages" || echo 'some files are not for this Python' >&2
