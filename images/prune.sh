#!/bin/sh
# Takes out of a virtual environment what no step reads: the libraries' own tests and static libraries, headers but torch's (which
# compiles kernels at run time), Python's type stubs, example data, and a few large parts that nothing here calls. What is imported
# is compiled here, because a container with a read-only root cannot keep what it compiles.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
find "$packages" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.a' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' \) -delete
find "$packages"/sklearn/datasets -type f ! -name '*.py' -delete 2>/dev/null || true
# Arrow's network protocol; and two copies of a library that is only loaded by its third name, libarrow_python.so.NNNN.
rm -rf "$packages"/pyarrow/include "$packages"/pyarrow/src "$packages"/pyarrow/*flight* "$packages"/pyarrow/libarrow_python.so \
    "$packages"/pyarrow/libarrow_python.so.*.*
# What describes the hundreds of AWS services that are neither a store nor a login.
for service in "$packages"/botocore/data/*/; do
    case $(basename "$service") in s3 | sts | sso | sso-oidc | signin) ;; *) rm -rf "$service" ;; esac
done
if [ -d "$packages"/calltune ] && [ ! -d "$packages"/torch ]; then
    # Without torch a model's code cannot even be imported; its config and its tokenizer can.
    find "$packages"/transformers/models -path '*/auto' -prune -o -type f \
        \( -name 'modeling_*.py' -o -name 'modular_*.py' -o -name '*processing_*.py' -o -name 'feature_extraction_*.py' \) \
        -exec rm {} +
    # Signals, formats of files and pictures that no step reads or writes, what only pip would read, and the compiled doubles of
    # Python files that matplotlib hardly calls.
    rm -rf "$packages"/scipy/signal "$packages"/scipy/io "$packages"/PIL/_avif* "$packages"/pillow.libs/libavif* \
        "$packages"/matplotlib/mpl-data/sample_data "$packages"/matplotlib/mpl-data/fonts/afm \
        "$packages"/matplotlib/mpl-data/fonts/pdfcorefonts "$packages"/*.dist-info/RECORD
    find "$packages"/fontTools \( -name '*.so' -o -name '*.c' \) -delete
    exec "$1"/bin/python "$(dirname "$0")"/precompile.py
fi
# Of transformers' hundreds of models a step imports one.
"$1"/bin/python -m compileall -q -j 0 -x 'transformers/models/(?!auto/)' --invalidation-mode unchecked-hash "$packages" ||
    echo 'some files are not for this Python' >&2
