"""Our own network architectures, found by name: `zfnet.py` makes the catalogue's `zfnet`.

A file here defines `build(classes: int) -> nn.Module`, the untrained network with that many outputs, and `ENTRY`, a
dict with the keys of a catalogue entry: `title`; `weights` (`random`, the default, or `package:NAME.safetensors` for a
file beside the module); `seed`; `classes` (names, or how many); `preprocess` (as in `Preprocessing`); `aliases` (call
name → further names), if it has any.
"""
