"""What the ZeRO tests train: wrappers and settings that must be exact, and broken layouts."""

EXACT = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero2_clipped": {"stage": 2, "clip": 1.0},
    "zero2_round_robin": {
        "stage": 2,
        "extra": {"zero_optimization": {"round_robin_gradients": True}},
    },
    "zero2_offloaded": {
        "stage": 2,
        "extra": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
    },
    "zero3_small_groups": {
        "stage": 3,
        "extra": {"zero_optimization": {"sub_group_size": 60}},
    },
    "zero0_bf16": {"stage": 0, "extra": {"bf16": {"enabled": True}}},
    "zero2_bf16": {"stage": 2, "extra": {"bf16": {"enabled": True}}},
    "zero3_bf16": {"stage": 3, "extra": {"bf16": {"enabled": True}}},
    "zero1_bf16_fp32_sums": {
        "stage": 1,
        "extra": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    },
    "zero0_nan": {"stage": 0, "nan_at": 7},
    "zero2_nan": {"stage": 2, "nan_at": 7},
}
TAMPERED = {
    "offsets_moved": {"stage": 2, "tamper": "offsets"},
    "order_reversed": {"stage": 2, "tamper": "order"},
    "values_changed": {"stage": 2, "tamper": "values"},
}
