"""The sprint plan itself, once: weeks, months, cadence, criteria and reading lists. Everything that repeats it is generated."""

from __future__ import annotations

from dataclasses import dataclass

TITLE = "CV + LLM 16-Week Upskilling Sprint"
PURPOSE = ("Learning plan blending modern computer vision with LLM systems. One demo or service every week. "
           "This repo is your single source of truth for goals, progress, and results.")


@dataclass(frozen=True, slots=True)
class PlannedWeek:
    """A week as the plan words it: `targets` is its one sentence, `deliverables` its checkboxes."""

    week: int
    title: str
    targets: str
    deliverables: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"week{self.week:02d}"

    @property
    def month(self) -> int:
        """1 to 4: four weeks each."""
        return (self.week + 3) // 4


@dataclass(frozen=True, slots=True)
class ReadingList:
    """One block of the reading lists: weeks 4 * month - 3 to 4 * month, rows of (topic, what to read)."""

    month: int
    name: str
    column: str
    rows: tuple[tuple[str, str], ...]


MONTHS = ("Training efficiency and ablations", "Modern CV + deploy", "Multimodal + serving", "Architecture, reliability, cost")

CADENCE = (
    ("Plan (Mon)", "set a numerical target and list deliverables"),
    ("Build (Tue-Thu)", "code, measure, document"),
    ("Publish (Fri-Sun)", "open PRs, write short notes, post publicly, close the issue"),
)

MINIMUM = (
    "Reproduce one figure or result from a paper/repo",
    "Run one ablation or micro-benchmark",
    "Update a demo/service and commit a perf sheet (latency, accuracy, cost)",
)

CRITERIA = (
    "Numerical target defined and met for the week",
    "At least one concrete artifact shipped (PR, demo, service, or report)",
    "Perf and unit tests pass in CI",
    '"What sped up, what broke, what\'s next" logged in the issue',
)

POST_TEMPLATE = "Copy to LinkedIn/Twitter and your Week issue"

WEEKS = (
    PlannedWeek(1, "PyTorch 2.x compile + profiling",
                ">=1.5x speedup on at least one model, >=20% on all three, identical metrics",
                ("Benchmarks on ResNet50, ViT-B, UNet with `torch.compile`, CUDA graphs, `torch.profiler`",
                 "Trace exports and short write-up")),
    PlannedWeek(2, "Attention hot path: FlashAttention",
                ">=1.5x attention kernel speedup, <=1% task metric delta",
                ("ViT or tiny-decoder with FlashAttention toggle (FP16/FP8 if available)",
                 "Ablation table and parity checks")),
    PlannedWeek(3, "Data engine throughput",
                "dataloader never the bottleneck, >=90% GPU util during train steps",
                ("WebDataset shards, async prefetch, GPU JPEG decode",
                 "Duplicate removal via MinHash and input-idle time dashboard")),
    PlannedWeek(4, "Finetuning toolbelt",
                "+1.0-1.5% top-1 or +mAP@50 at <=1.1x cost",
                ("Baseline vs LoRA/QLoRA, AMP, EMA, mixup/cutmix, grad-ckpt",
                 "Hydra-configured template with tests")),
    PlannedWeek(5, "SSL features as a service (DINOv2)",
                "linear probe >=5-10% over scratch with 10x fewer labels",
                ("Feature service (REST/gRPC) + feature bank",
                 "Retrieval demo and probe results")),
    PlannedWeek(6, "Real-time detection that ships (YOLOv10 + TensorRT/Triton)",
                "GPU p95 <12 ms, CPU p95 <60 ms; mAP within 1-2 points of PyTorch",
                ("ONNX -> TensorRT export and Triton model repo",
                 "Perf sheet and profiling traces")),
    PlannedWeek(7, "Promptable segmentation (SAM 2)",
                "2-3 clicks to 85% IoU; 720p video real-time",
                ("Web demo for image + video segmentation",
                 "Clicks-to-IoU study vs baseline")),
    PlannedWeek(8, "Multi-object tracking + ReID",
                "IDF1 >=0.70 on small eval; <=2% ID switches/frame",
                ("ByteTrack/BoT-SORT with SSL appearance features",
                 "MOT metrics and qualitative videos")),
    PlannedWeek(9, "VLM quickstart + domain LoRA",
                ">=10% relative gain on domain eval vs base",
                ("Run open VLM (e.g. Qwen2-VL/LLaVA-OneVision), small domain LoRA",
                 "Notebook + error taxonomy")),
    PlannedWeek(10, "High-throughput serving",
                ">=2x throughput vs vanilla HF; p95 latency goal met",
                ("vLLM for text head; Triton/TensorRT for vision encoders",
                 'docker-compose "one-box" + Prometheus/Grafana')),
    PlannedWeek(11, "Multimodal RAG + search",
                "+10% nDCG@10 vs naive embeddings",
                ("Hybrid BM25+embeddings over images+text, cross-encoder reranker",
                 "Query analytics + A/B switch")),
    PlannedWeek(12, "3D from casual capture (3DGS)",
                "interactive viewer >=60 fps; quality table (PSNR/LPIPS)",
                ("Capture-to-viewer pipeline; NeRF comparison",
                 "Simple web viewer")),
    PlannedWeek(13, "Positional methods: RoPE, scaled-RoPE/YaRN, ALiBi",
                "8k-context ppl within 5% of 2k baseline using scaling; exact decoding >2x train length",
                ("Toggleable positional modules + ablation report",)),
    PlannedWeek(14, "FFN and norm: SwiGLU + RMSNorm",
                "<=same params/latency with equal or better perplexity; stable training",
                ("Drop-in modules with benchmarks and LR sensitivity study",)),
    PlannedWeek(15, "Inference: quant + decoding",
                ">=1.7x tokens/s at <=1% quality delta; >=2x lower memory",
                ("AWQ/GPTQ weight-only quant; KV cache study; speculative decoding",)),
    PlannedWeek(16, "Reliability + cost and the honest perf report",
                "SLOs met in 24h soak; cost per 1k requests documented",
                ("Blue-green deploy + autoscaling",
                 "Drift/robustness checks and final report")),
)

READING = (
    ReadingList(1, "Core efficiency", "Must read / watch", (
        ("PyTorch 2.x compile + Inductor", "Docs and deep-dive notes"),
        ("CUDA graphs + profiler", "Official docs and tutorials"),
        ("FlashAttention (2/3)", "Paper + repo readthrough"),
        ("Data pipelines at scale", "WebDataset + GPU JPEG decode notes"),
        ("Finetuning tricks", "LoRA/QLoRA, EMA, AMP, grad-ckpt"))),
    ReadingList(2, "Modern CV", "Must read / repo", (
        ("DINOv2", "Paper + model card"),
        ("YOLOv10", "Paper + training tips"),
        ("SAM 2", "Paper + video memory design"),
        ("Tracking", "ByteTrack / BoT-SORT papers + code"))),
    ReadingList(3, "Multimodal + Serving", "Must read / repo", (
        ("VLMs (Qwen2-VL, LLaVA-OneVision, etc.)", "Model cards + eval readme"),
        ("vLLM", "Paged attention + prefix caching notes"),
        ("Multimodal RAG", "Retrieval + reranking survey"),
        ("3D Gaussian Splatting", "Paper + viewer code"))),
    ReadingList(4, "Architectures + Inference", "Must read / repo", (
        ("Positional methods", "RoPE, ALiBi, NTK/YaRN scaling"),
        ("FFN + Norms", "SwiGLU, RMSNorm, PaLM section"),
        ("Quantization", "AWQ, GPTQ papers and tools"),
        ("Decoding", "Speculative decoding primers"))),
)


def planned(week: int) -> PlannedWeek:
    """The plan's week `week`, 1 to 16."""
    return WEEKS[week - 1]
