# Triton with what the python backend's encoder imports; trtexec comes with the image (see the README for the TensorRT plan).
FROM nvcr.io/nvidia/tritonserver:25.09-py3
RUN pip install --no-cache-dir torch==2.11.0 timm==1.0.20
