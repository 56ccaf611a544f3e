#!/usr/bin/env bash
# Measures what this project promises on a GPU, in under 8 minutes, without a network; prints one table last.
#
#   tests/gpu/measure.sh                    on the CUDA GPU that is there
#   tests/gpu/measure.sh --device cpu       the same ways in a tiny form, to see that they work
#   tests/gpu/measure.sh --parts robots     some parts: equal rollouts iteration large training robots cheetah
#                                           velocity
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" -m tests.gpu.measure "$@"
