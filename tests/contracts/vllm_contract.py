"""What `rence_lightning.rollouts.VLLMEngine` uses of vLLM, as data: names, arguments, values and the files they are in.

`test_vllm_sources.py` looks for each in the sources of the supported releases, and `recording_vllm.py` is a stand-in
for `vllm.LLM` that has these names and no others, so that the engine cannot use what is not written here.
"""

from contracts.vllm_reading import Requirement as Has

from rence_lightning.rollouts.vllm import PREEMPTIONS

LLM = "vllm/entrypoints/llm.py"
ENGINE = "vllm/v1/engine/llm_engine.py"
CORE = "vllm/v1/engine/core.py"
CLIENT = "vllm/v1/engine/core_client.py"
ARGUMENTS = "vllm/engine/arg_utils.py"
MODEL_CONFIG = "vllm/config/model.py"
SAMPLING = "vllm/sampling_params.py"
OUTPUTS = "vllm/outputs.py"
EXECUTOR = "vllm/v1/executor/abstract.py"
LAUNCHER = "vllm/v1/executor/uniproc_executor.py"
WORKER = "vllm/v1/worker/gpu_worker.py"
RELOAD = "vllm/model_executor/model_loader/reload/inplace.py"
METRICS = "vllm/v1/metrics"

SETTINGS = (
    *("dtype", "runner", "load_format", "skip_tokenizer_init", "max_num_seqs", "logprobs_mode", "enforce_eager"),
    *("distributed_executor_backend", "tensor_parallel_size", "max_model_len", "gpu_memory_utilization"),
    *("enable_sleep_mode", "enable_chunked_prefill", "kv_cache_memory_bytes", "hf_overrides", "disable_log_stats"),
)
"""Arguments of `vllm.LLM` that the engine sets."""

NAMED_IN_DOCUMENTATION = ("sleep_mode_offload_cudagraph",)
"""Further arguments, which the documentation tells users to set."""

METHODS: dict[str, tuple[str, ...]] = {
    "collective_rpc": ("method", "kwargs"),
    "reset_prefix_cache": (),
    "apply_model": ("func",),
    "get_metrics": (),
    "sleep": ("level",),
    "wake_up": ("tags",),
}
"""Methods of `vllm.LLM`, with the arguments that the engine gives them."""

QUEUE_METHODS: dict[str, tuple[str, ...]] = {
    "add_request": ("request_id", "prompt", "params"),
    "abort_request": ("request_ids",),
    "step": (),
    "get_num_unfinished_requests": (),
}
"""Methods of `LLM.llm_engine`."""

SAMPLING_FIELDS = (
    *("n", "temperature", "top_p", "max_tokens", "seed", "logprobs", "flat_logprobs", "stop_token_ids", "ignore_eos"),
    *("detokenize", "output_kind"),
)
"""Fields of `SamplingParams`."""

METRIC_FIELDS = ("name", "value")
REQUEST_FIELDS = ("request_id", "outputs")
COMPLETION_FIELDS = ("index", "token_ids", "logprobs", "finish_reason")

RPC_METHODS: dict[str, tuple[str, ...]] = {"reload_weights": ("weights_iterator",)}
"""Methods of workers that `collective_rpc` calls."""

TAGS = ("weights", "kv_cache")
ENVIRONMENT = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "VLLM_USE_V2_MODEL_RUNNER")
"""Variables that the engine sets, or that the documentation tells users to set."""

LEFT_OUT = "not loaded"
"""Words of the warning of weights that a push has left out."""

CONTRACT = [
    Has("vllm/__init__.py", "__all__", "LLM"),
    Has("vllm/__init__.py", "__all__", "SamplingParams"),
    # the start
    Has(LLM, "LLM.__init__", "model"),
    Has(LLM, "LLM.__init__", "EngineArgs"),
    *(Has(ARGUMENTS, "EngineArgs", name) for name in (*SETTINGS, *NAMED_IN_DOCUMENTATION)),
    *(Has(MODEL_CONFIG, "ModelDType", dtype) for dtype in ("float32", "bfloat16", "float16")),
    Has("vllm/config/scheduler.py", "RunnerType", "generate"),
    Has(MODEL_CONFIG, "LogprobsMode", "processed_logprobs"),
    Has("vllm/model_executor/model_loader/__init__.py", "_LOAD_FORMAT_TO_MODEL_LOADER", "dummy"),
    Has("vllm/config/parallel.py", "DistributedExecutorBackend", "external_launcher"),
    *(Has(LAUNCHER, "ExecutorWithExternalLauncher._distributed_args", name) for name in ("RANK", "LOCAL_RANK")),
    *(Has("vllm/envs.py", "environment_variables", name) for name in ENVIRONMENT),
    # the output projection in float32
    Has(MODEL_CONFIG, "_get_head_dtype", "head_dtype"),
    Has("vllm/model_executor/layers/logits_processor.py", "LogitsProcessor._apply_head", "head_dtype"),
    # the engine and its queue
    Has(LLM, "LLM", "llm_engine"),
    Has(LLM, "LLM", "model_config"),
    Has(MODEL_CONFIG, "ModelConfig", "max_model_len"),
    *(Has(LLM, f"LLM.{method}", name) for method, names in METHODS.items() for name in (method, *names)),
    *(Has(ENGINE, f"LLMEngine.{name}", each) for name, them in QUEUE_METHODS.items() for each in (name, *them)),
    Has(LLM, "LLM.reset_prefix_cache", "-> bool"),
    Has(LLM, "LLM.wake_up", "-> bool"),
    # weights
    *(
        Has(path, "GPUModelRunner.reload_weights", "weights_iterator")
        for path in ("vllm/v1/worker/gpu_model_runner.py", "vllm/v1/worker/gpu/model_runner.py")
    ),
    Has(WORKER, "Worker.reload_weights", "reload_weights"),
    Has(RELOAD, "reload_weights", LEFT_OUT),
    Has(RELOAD, "logger", "__name__"),
    Has("vllm/v1/worker/worker_base.py", "WorkerBase.apply_model", "get_model"),
    # preemptions
    *(Has(f"{METRICS}/reader.py", "get_metrics_snapshot", f"{name}") for name in ("Counter", *METRIC_FIELDS)),
    Has(f"{METRICS}/loggers.py", "PrometheusStatLogger.__init__", PREEMPTIONS),
    # sleep
    *(Has(EXECUTOR, "SLEEP_TAGS", tag) for tag in TAGS),
    *(Has(WORKER, f"Worker.{name}", argument) for name, argument in (("sleep", "level"), ("wake_up", "tags"))),
    # requests and responses
    *(Has(SAMPLING, "SamplingParams", name) for name in SAMPLING_FIELDS),
    Has(SAMPLING, "RequestOutputKind", "FINAL_ONLY"),
    Has("vllm/v1/engine/parallel_sampling.py", "ParentRequest._get_child_sampling_params", "index"),
    Has("vllm/inputs/llm.py", "TokensPrompt", "prompt_token_ids"),
    *(Has(OUTPUTS, "RequestOutput", name) for name in REQUEST_FIELDS),
    *(Has(OUTPUTS, "CompletionOutput", name) for name in COMPLETION_FIELDS),
    Has("vllm/logprobs.py", "FlatLogprobs", "logprobs"),
    *(Has("vllm/v1/engine/__init__.py", "FINISH_REASON_STRINGS", reason) for reason in ("stop", "length")),
    # the end
    Has(ENGINE, "LLMEngine", "engine_core"),
    Has(CLIENT, "InprocClient.shutdown", "shutdown"),
    Has(CORE, "EngineCore.shutdown", "cleanup_dist_env_and_memory"),
]
