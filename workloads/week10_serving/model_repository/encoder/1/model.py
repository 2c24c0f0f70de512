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
        if self.device == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(0)
        network = timm.create_model(said["architecture"], num_classes=0, checkpoint_path=said["checkpoint"])
        self.network = network.to(self.device, self.dtype).eval()
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
        self.graphs = {}
        if self.device != "cpu":
            for size in BUCKETS:
                self.graphs[size] = self.recorded(size)

    def encoded(self, images):
        """(N, 224, 224, 3) uint8 to (N, width) float32."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return self.network(pixels.to(self.dtype)).float()

    def recorded(self, size):
        """A CUDA graph of one batch of `size`, what it reads and what it writes; warm-up on a side stream, as torch's notes ask."""
        torch = self.torch
        images = torch.zeros(size, 224, 224, 3, dtype=torch.uint8, device=self.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):
                self.encoded(images)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            out = self.encoded(images)
        return graph, images, out

    def execute(self, requests):
        torch = self.torch
        given = [torch.from_dlpack(pb.get_input_tensor_by_name(request, "IMAGE").to_dlpack()) for request in requests]
        batch = torch.cat([images.cpu() for images in given])
        vectors = torch.cat([self.one_batch(part) for part in batch.split(BUCKETS[-1])])
        answers = vectors.split([len(images) for images in given])
        # dlpack, because pb.Tensor of this version misreads the arrays of numpy 2
        return [pb.InferenceResponse([pb.Tensor.from_dlpack("EMBEDDING", torch.utils.dlpack.to_dlpack(part.contiguous()))])
                for part in answers]

    def one_batch(self, images):
        torch, count = self.torch, len(images)
        size = next(bucket for bucket in BUCKETS if bucket >= count)
        padded = torch.cat([images, images.new_zeros(size - count, *images.shape[1:])])
        if size not in self.graphs:
            with torch.inference_mode():
                return self.encoded(padded.to(self.device))[:count].clone()
        graph, inside, out = self.graphs[size]
        inside.copy_(padded)
        graph.replay()
        return out[:count].cpu()
