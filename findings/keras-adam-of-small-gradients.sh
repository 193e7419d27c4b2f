#!/usr/bin/env bash
# Keras 3.15.1's Adam puts epsilon beside the uncorrected root, so with gradients of 3e-6 its first step is half of torch's.
#
# Kingma & Ba's algorithm 1 divides both moments by 1 - beta^t first and adds epsilon to the corrected root, as torch does;
# Keras moves the correction into the rate (the end of their section 2) and adds epsilon to the root as it is, where after
# one step it counts 1 / sqrt(1 - 0.999) = 31.6 times as much.
. "$(dirname "$0")/packages" torch==2.15.0 keras==3.15.1 numpy==2.4.6
KERAS_BACKEND=torch "$python" - <<'END'
import keras, torch

gradient = torch.full((4,), 3e-6)
variable = keras.Variable([0.0] * 4)
keras.optimizers.Adam(learning_rate=1.0).apply([gradient], [variable])
parameter = torch.zeros(4, requires_grad=True)
parameter.grad = gradient.clone()
torch.optim.Adam([parameter], lr=1.0, eps=1e-7).step()
theirs, torchs = -float(variable.value[0]), -float(parameter[0])
by_hand = 3e-6 / (3e-6 + 1e-7 / (1 - 0.999) ** 0.5)
print(f"keras {keras.__version__}, torch {torch.__version__}, epsilon 1e-7 in both")
print(f"first step: keras {theirs:.3f} (by hand {by_hand:.3f}), torch {torchs:.3f} (by hand {3e-6 / 3.1e-6:.3f})")
assert abs(theirs - by_hand) < 1e-3 and abs(torchs - 3e-6 / 3.1e-6) < 1e-3
END
