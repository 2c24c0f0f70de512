"""The encoder that Triton loads: one timm network in bf16, a CUDA graph for each batch size it is asked for.

A request's batch is padded to the next bucket, because a graph has a fixed shape; what pads it is cut off again. Parameters of
config.pbtxt: `architecture` (a name of timm's), `checkpoint` (a .safetensors of its weights; "" for random ones from seed 0) and
`packages` (a folder to import torch and timm from, where Triton's Python does not see them; "" for none).
"""

import json
import sys

import triton_python_backend_utils as pb  # Triton's own, there in its process only

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TritonPythonModel:
    """What Triton calls: initialize once, then execute with whatever requests it batched."""

    def initialize(self, args):
        said = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        if said["packages"]:
            sys.path.append(said["packages"])
        import timm
        import torch

        self.torch = torch
        self.device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self.dtype = torch.bfloat16 if self.device != "cpu" else torch.float32
        # Several threads would spin for each other at each small copy while the server's own threads wait for a core.
        torch.set_num_threads(1)
        torch.manual_seed(0)
        network = timm.create_model(said["architecture"], num_classes=0, checkpoint_path=said["checkpoint"])
        self.network = network.to(self.device, self.dtype).eval()
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
        self.graphs = {}
        if self.device != "cpu":
            self.images = torch.zeros(BUCKETS[-1], 224, 224, 3, dtype=torch.uint8, pin_memory=True)
            with torch.inference_mode():
                width = self.encoded(self.images[:1].to(self.device)).shape[1]
            self.vectors = torch.zeros(BUCKETS[-1], width, pin_memory=True)
            self.graphs = {size: self.recorded(size) for size in BUCKETS}

    def encoded(self, images):
        """(N, 224, 224, 3) uint8 to (N, width) float32."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.network(pixels.to(self.dtype)).float()

    def recorded(self, size):
        """A CUDA graph of one batch of `size`, from the pinned images to the pinned vectors, and the copy of the images it keeps on the
        GPU; warm-up on a side stream, as torch's notes ask."""
        torch = self.torch
        inside = torch.zeros(size, 224, 224, 3, dtype=torch.uint8, device=self.device)

        def batch():
            inside.copy_(self.images[:size], non_blocking=True)
            self.vectors[:size].copy_(self.encoded(inside), non_blocking=True)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):
                batch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            batch()
        return graph, inside

    def execute(self, requests):
        torch = self.torch
        given = [torch.from_dlpack(pb.get_input_tensor_by_name(request, "IMAGE").to_dlpack()) for request in requests]
        counts = [len(images) for images in given]
        with torch.inference_mode():
            vectors = self.one_batch(given, sum(counts))
        # dlpack, because pb.Tensor of this version misreads the arrays of numpy 2
        return [pb.InferenceResponse([pb.Tensor.from_dlpack("EMBEDDING", torch.utils.dlpack.to_dlpack(part.contiguous()))])
                for part in vectors.split(counts)]

    def one_batch(self, given, count):
        """The vectors of all images in `given`, `count` together and at most `max_batch_size`; what pads a bucket is of older batches."""
        torch = self.torch
        if not self.graphs:
            return self.encoded(torch.cat(given))
        torch.cat(given, out=self.images[:count])
        graph, _ = self.graphs[next(bucket for bucket in BUCKETS if bucket >= count)]
        graph.replay()
        torch.cuda.current_stream().synchronize()
        return self.vectors[:count].clone()
