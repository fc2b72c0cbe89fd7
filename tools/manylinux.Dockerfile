# A wheel for older systems: glibc 2.28 (RHEL 8, Ubuntu 20.04 and newer), as manylinux_2_28.
# Written for that and NOT RUN by the project so far, whose machines have no containers.
#
#     docker build -f tools/manylinux.Dockerfile --output dist .
#
# CUDA 12.9, of which drivers from 525 on run the result; it knows sm_75 to sm_120.
FROM quay.io/pypa/manylinux_2_28_x86_64 AS build
RUN dnf -y install dnf-plugins-core \
 && dnf config-manager --add-repo https://developer.download.nvidia.com/compute/cuda/repos/rhel8/x86_64/cuda-rhel8.repo \
 && dnf -y install cuda-nvcc-12-9 cuda-cudart-devel-12-9 \
 && dnf clean all
ENV CUDA_HOME=/usr/local/cuda-12.9 PATH=/opt/sssd/bin:$PATH
RUN python3.12 -m venv /opt/sssd \
 && pip install --no-cache-dir 'torch>=2.10' --index-url https://download.pytorch.org/whl/cu129 \
 && pip install --no-cache-dir 'setuptools>=77' cmake ninja build auditwheel twine
COPY . /sssd
WORKDIR /sssd
RUN python tools/wheel.py && python tools/try_wheel.py dist/*.whl

FROM scratch
COPY --from=build /sssd/dist/ /
