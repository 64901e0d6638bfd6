"""The arithmetic of memory while the engine samples."""

from benchmarks.qwen3 import qwen3
from rence_lightning.planning.sampling_memory import EngineSetup, cache_bytes_of_token, sampling_memory
from rence_lightning.planning.setup import TrainingSetup
from rence_lightning.planning.training_memory import TrainingMemory
from rence_lightning.training.strategy import FullyShardStrategy


def training(parameters: int, kept: int) -> TrainingMemory:
    return TrainingMemory(kept, {}, kept, 0, parameters, parameters, 57344)


SETUP = TrainingSetup(qwen3("4B"), 57344, 1536, 6656, devices=8, strategy=FullyShardStrategy())


def test_keys_and_values_of_a_token() -> None:
    # 36 layers, keys and values, 8 heads of 128 numbers of 2 bytes
    assert cache_bytes_of_token(qwen3("4B"), 2) == 36 * 2 * 8 * 128 * 2 == 147456


def test_vllm_fills_its_share_of_the_gpu() -> None:
    engine = EngineSetup(vllm=True, dtype="bfloat16", max_num_seqs=256, gpu_memory_utilization=0.6)
    memory = sampling_memory(SETUP, engine, training(4_022_468_096, 6_000_000_000), 80e9)
    assert memory.weights == 2 * 4_022_468_096
    assert memory.total == 6_000_000_000 + 48_000_000_000
    assert memory.cache_tokens == memory.cache // 147456
    assert memory.sequences == memory.cache_tokens // 8192
    assert memory.while_training == 0


def test_an_engine_over_two_gpus_has_half_of_the_weights_on_each() -> None:
    one = EngineSetup(vllm=True, dtype="bfloat16", max_num_seqs=256, gpu_memory_utilization=0.6)
    two = EngineSetup(vllm=True, dtype="bfloat16", max_num_seqs=256, gpu_memory_utilization=0.6, tensor_parallel_size=2)
    trained = training(4_022_468_096, 0)
    alone, shared = (sampling_memory(SETUP, engine, trained, 80e9) for engine in (one, two))
    assert shared.weights == alone.weights // 2
    assert shared.cache_tokens > 2 * alone.cache_tokens


def test_an_engine_that_does_not_sleep_stays_while_the_policy_trains() -> None:
    engine = EngineSetup(vllm=True, dtype="bfloat16", max_num_seqs=256, gpu_memory_utilization=0.5, sleep=False)
    assert sampling_memory(SETUP, engine, training(10**9, 0), 80e9).while_training == 40_000_000_000


def test_the_transformers_engine_copies_a_sharded_policy_only() -> None:
    engine = EngineSetup(vllm=False, dtype="bfloat16", max_num_seqs=4)
    sharded = sampling_memory(SETUP, engine, training(10**9, 0), 80e9)
    whole = sampling_memory(TrainingSetup(qwen3("4B"), 57344, 1536, 6656), engine, training(10**9, 0), 80e9)
    assert sharded.weights == sharded.while_training == 2 * 10**9 and whole.weights == 0
    assert whole.cache == 4 * 8192 * 147456
