#!/usr/bin/env bash
# safetensors 0.8.0 gives the entries of one file in three orders: by name, as they lie in the file, and, from bytes, in another order in each process.
#
# `safe_open(...).keys()` sorts names, `offset_keys()` and `load_file` follow the file (by size of the elements, then by
# name), and `load(bytes)` follows a hash map of random seed. Whatever zips two of them, or takes the first, goes wrong.
. "$(dirname "$0")/packages" safetensors==0.8.0 numpy==2.4.6
cat > "$folder/read.py" <<'END'
import sys
from safetensors import safe_open
from safetensors.numpy import load, load_file

path = sys.argv[1]
with safe_open(path, "np") as file:
    print(" ".join(file.keys()), " ".join(file.offset_keys()), sep="|", end="|")
print(" ".join(load_file(path)), " ".join(load(open(path, "rb").read())), sep="|")
END
"$python" - "$folder" <<'END'
import subprocess, sys
import numpy as np, safetensors
from safetensors.numpy import save_file

folder = sys.argv[1]
path = f"{folder}/file.safetensors"
save_file({name: np.zeros(1, np.int8 if name == "c" else np.float32) for name in "hgfedcba"}, path)
runs = {subprocess.run([sys.executable, f"{folder}/read.py", path], capture_output=True, text=True, check=True).stdout
        for _ in range(8)}
by_name, in_file, load_file, load = (set(column) for column in zip(*(run.strip().split("|") for run in runs), strict=True))
print(f"safetensors {safetensors.__version__}; eight processes read one file of a to h, c of one byte, the others of four")
print("keys():", *by_name, "\noffset_keys():", *in_file, "\nload_file:", *load_file, "\nload:", *(f"\n  {each}" for each in sorted(load)))
assert by_name == {"a b c d e f g h"} and in_file == load_file == {"a b d e f g h c"} and len(load) > 1
END
