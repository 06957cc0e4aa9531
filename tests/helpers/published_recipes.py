"""The argument lists of public training codes, as far as a recipe has a field for them.

Taken from the files that each list names, at the commits given there.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """What a public code trains with."""

    source: str
    arguments: dict[str, object]
    """By the name of the argument: its default, or what the published command gives."""
    written: dict[str, object]
    """What the code has without an argument, by the recipe's field."""


FIELDS = {
    "epochs": "epochs",
    "lr": "lr",
    "layer_decay": "layer_decay",
    "weight_decay": "weight_decay",
    "schedule": "sched",
    "warmup_epochs": "warmup_epochs",
    "warmup_lr": "warmup_lr",
    "min_lr": "min_lr",
    "clip_gradient": "clip_grad",
    "drop_path": "drop_path",
    "head_scale": "init_scale",
    "label_smoothing": "smoothing",
    "mixup": "mixup",
    "cutmix": "cutmix",
    "mixup_prob": "mixup_prob",
    "mixup_switch_prob": "mixup_switch_prob",
    "mixup_mode": "mixup_mode",
    "auto_augment": "aa",
    "random_erasing": "reprob",
    "augment_repeats": "num_sample",
    "cloud_scale": "scale_high",
    "cloud_shift": "translate_range",
}
"""The argument that is a recipe's field."""

OURS = {
    "precision": "float32",  # half precision through NVIDIA's scaler in the public codes
    "betas": (0.9, 0.999),  # torch's and timm's own
    "accumulate": 1,
    "compile": False,
    "lr_factors": (),
    "undecayed": (),
    "milestones": (),
    "gamma": None,
    "adapter_init": "trunc_normal",  # vit_llama.py; VideoMAE's adapters keep torch's own
    "crop_scale": 0.08,  # of timm's and VideoMAE's resized crops
    "pad": 4,  # of DeiT at 32 pixels
    "augment_on": "worker",
    "crop": "resized",
    "cloud_scale": 1.5,  # of clouds, which no code for images has
    "cloud_shift": 0.2,
}
"""Fields without an argument in any of the codes, and what they have to be."""

DEIT_ARGUMENTS = {
    "epochs": 300,
    "batch_size": 256,  # of each GPU
    "opt": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.05,
    "clip_grad": None,
    "sched": "cosine",
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "warmup_epochs": 5,
    "drop_path": 0.1,
    "aa": "rand-m9-mstd0.5-inc1",
    "smoothing": 0.1,
    "reprob": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
}
DEIT_WRITTEN = {
    "batch_size": 4 * 256,  # four GPUs in the README's commands
    "lr_batch_size": 512,  # main.py: args.lr * args.batch_size * world_size / 512.0
    "layer_decay": None,
    "head_scale": 1.0,
    "warmup_prefix": False,  # timm's create_scheduler
    "scale_min_lr": False,
    "lr_per_step": False,  # lr_scheduler.step(epoch)
    "repeats": 3,  # samplers.py: each index three times in a row; --repeated-aug is the default
    "flip": 0.5,  # timm's create_transform
    "augment_repeats": 1,
}

POINT_ARGUMENTS = {
    "batch_size": 32,  # total_bs
    "opt": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.05,
    "epochs": 300,
    "warmup_epochs": 10,  # initial_epochs
    "warmup_lr": 1e-6,
    "min_lr": 1e-6,
    "clip_grad": 10,
    "drop_path": 0.1,
    "smoothing": 0,  # --label_smoothing is off
    "scale_high": 1.5,  # PointcloudScaleAndTranslate: 2/3 to 3/2
    "translate_range": 0.2,
}
POINT_WRITTEN = {
    "batch_size": 32,
    "lr_batch_size": None,
    "schedule": "cosine",
    "layer_decay": None,
    "head_scale": 1.0,
    "warmup_prefix": False,
    "scale_min_lr": False,
    "lr_per_step": False,
    "adapter_init": "linear",  # nn.Linear as torch draws it
    "mixup": 0,
    "cutmix": 0,
    "mixup_prob": 1.0,  # without effect, as the next two
    "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
    "auto_augment": None,
    "crop": "none",
    "flip": 0,
    "random_erasing": 0,
    "repeats": 1,
    "augment_repeats": 1,
}
BRIDGE = r"^bridge\."

MOTION_WRITTEN = {
    **POINT_WRITTEN,
    "head_scale": 1.0,
    "label_smoothing": 0,
    "drop_path": 0.0,
    "cloud_scale": 1.5,  # without effect, as the next
    "cloud_shift": 0.2,
}

CROSS_MODAL = r"^(trunk\.)?(layers|image_transform|text_transform)\.|(^|\.)head\.\w+_pooler\."
"""lr_mult_cross_modal: what has cross_modal in its name."""
METER_ARGUMENTS = {
    "epochs": 10,  # max_epoch
    "opt": "adamw",
    "lr": 5e-6,
    "weight_decay": 0.01,
    "min_lr": 0,  # end_lr
}
METER_WRITTEN = {
    **POINT_WRITTEN,
    "batch_size": 512,
    "betas": (0.9, 0.98),
    "schedule": "linear",  # get_polynomial_decay_schedule_with_warmup, decay_power 1
    "warmup_epochs": 1,  # warmup_steps 0.1 of ten epochs
    "warmup_prefix": True,
    "warmup_lr": 0.0,
    "lr_per_step": True,
    "clip_gradient": None,
    "drop_path": 0.0,
    "label_smoothing": 0,
    "adapter_init": "trunc_normal",  # objectives.init_weights: normal, 0.02
    "auto_augment": "rand-m3-n2-p1",  # RandAugment(2, 9) of 30; timm counts to 10
    "crop": "centre",  # Resize and CenterCrop
    "cloud_scale": 1.5,  # without effect, as the next
    "cloud_shift": 0.2,
}
ROOMS_WRITTEN = {
    **POINT_WRITTEN,
    "batch_size": 16,
    "label_smoothing": 0,
    "drop_path": 0.0,
    "warmup_epochs": 0,
    "warmup_lr": 1e-6,  # without effect
    "schedule": "linear",
    "min_lr": 5e-4,  # lr_decay_step is 100 and 200, which no training reaches
    "cloud_scale": 1.0,
    "cloud_shift": 0.5,  # _translate
}

PUBLISHED = {
    "pang-vectornet": Published(
        "Pang et al. 2024, App. C.4: AdamW, 5e-4, cosine, 60 epochs, batches of 32; torch's "
        "default weight decay, no warm-up, no clipping, since none is named",
        {
            "batch_size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight_decay": 0.01,
            "epochs": 60,
            "warmup_epochs": 0,
            "warmup_lr": 1e-6,
            "min_lr": 0.0,
            "clip_grad": None,
        },
        MOTION_WRITTEN,
    ),
    "pang-mmtransformer": Published(
        "Pang et al. 2024, App. C.4: AdamW, 5e-4, 32 epochs, batches of 32, a rate dropped by 1/4 "
        "at epochs 20, 24 and 28; the rest as of pang-vectornet",
        {
            "batch_size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight_decay": 0.01,
            "epochs": 32,
            "warmup_epochs": 0,
            "warmup_lr": 1e-6,
            "min_lr": 0.0,
            "clip_grad": None,
        },
        {**MOTION_WRITTEN, "schedule": "step", "milestones": (20, 24, 28), "gamma": 0.25},
    ),
    "streaming-vectornet": Published(
        "ziqipang/StreamingForecasting, configuration of VectorNet at eb3545b",
        {
            "batch_size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight_decay": 1e-4,
            "clip_grad": 0.1,
            "min_lr": 0.0,
        },
        {
            **MOTION_WRITTEN,
            "epochs": 24 + 1,  # with the warm-up, of 1,000 steps in front of the first there
            "warmup_epochs": 1,
            "warmup_prefix": True,
            "warmup_lr": 1e-3 * 5e-4,
            "lr_per_step": True,
            "schedule": "step",
            "milestones": (16, 20),
            "gamma": 0.25,
        },
    ),
    "sqa3d": Published(
        "SilongYong/SQA3D, ScanQA/scripts/train.py and auxi.sh at a98da8f; Adam's weight decay is "
        "in its gradient there, single values of gradients are clipped at 1, and the momentum of "
        "the norms is halved every 20 epochs",
        {
            "batch_size": 16,
            "opt": "adam",
            "lr": 5e-4,
            "weight_decay": 1e-5,  # wd
            "epochs": 50,
            "clip_grad": None,  # not by norm
        },
        ROOMS_WRITTEN,
    ),
    "pang-rooms": Published(
        "Pang et al. 2024, App. C: AdamW, 30 epochs, batches of 32, a rate of a tenth from "
        "epochs 10, 15 and 20 on; the rate itself is that of SQA3D, the weight decay torch's "
        "default, since none is named",
        {
            "batch_size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight_decay": 0.01,
            "epochs": 30,
            "clip_grad": None,
        },
        {
            **ROOMS_WRITTEN,
            "batch_size": 32,
            "schedule": "step",
            "min_lr": 0.0,  # without effect
            "milestones": (10, 15, 20),
            "gamma": 0.1,
        },
    ),
    "meter": Published(
        "zdou0830/METER, meter/config.py (task_finetune_vqa_clip_bert, clip32, clip_randaug) and "
        "meter/modules/meter_utils.py at 14a23be",
        METER_ARGUMENTS,
        {
            **METER_WRITTEN,
            "lr_factors": (
                (BRIDGE, 10.0),  # Pang et al. 2024, App. C.5
                (r"(^|\.)head\.(hidden|norm|output)\.", 50.0),  # lr_mult_head: vqa_classifier
                (CROSS_MODAL, 5.0),
                (r"^(trunk\.)?(image|text|types)\.", 1.0),
            ),
        },
    ),
    "meter-retrieval": Published(
        "zdou0830/METER, meter/config.py (task_finetune_irtr_f30k_clip_bert, clip32, clip_randaug) "
        "and meter/modules/meter_utils.py at 14a23be",
        METER_ARGUMENTS,
        {
            **METER_WRITTEN,
            "lr_factors": (
                (BRIDGE, 10.0),
                (CROSS_MODAL, 5.0),
                # rank_output is not among head_names; itm_score is, and with 0.5 not trained
                (r"^(trunk\.)?(image|text|types)\.|(^|\.)head\.rank\.", 1.0),
            ),
        },
    ),
    "point-bert": Published(
        "lulutang0608/Point-BERT, tools/builder.py, tools/runner_BERT_finetune.py and "
        "cfgs/ScanObjectNN_models/PointTransformer_hardest.yaml at 26e0581",
        POINT_ARGUMENTS,
        POINT_WRITTEN,
    ),
    "pang-points": Published(
        "Pang et al. 2024, App. C.2; the rest as in their code",
        POINT_ARGUMENTS,
        {
            **POINT_WRITTEN,
            "lr_factors": ((BRIDGE, 0.1), (r"^(?!bridge\.)", 1.0)),  # 5e-5 for the mappers
            "undecayed": (BRIDGE,),
        },
    ),
    "pang-points-code": Published(
        "ziqipang/LM4VisualEncoding, pointcloud_classification/tools/builder.py at e34e919",
        POINT_ARGUMENTS,
        {
            **POINT_WRITTEN,
            "lr_factors": (
                (BRIDGE, 0.5),  # 'llama' in name, which comes first
                (r"^(?!bridge\.).*(\.bias|norm\d?\.weight|token)$", 0.1),
                (r"^(?!bridge\.)(?!.*(\.bias|norm\d?\.weight|token)$)", 1.0),
            ),
            "undecayed": (BRIDGE,),
        },
    ),
    "deit": Published(
        "facebookresearch/deit, main.py at 0282d2a and README: DeiT-S and DeiT-T",
        DEIT_ARGUMENTS,
        DEIT_WRITTEN,
    ),
    "pang": Published(
        "ziqipang/LM4VisualEncoding, image_classification/main.py at 4fff2dd and README 2.1.1",
        {**DEIT_ARGUMENTS, "warmup_epochs": 20},
        DEIT_WRITTEN,
    ),
    "videomae": Published(
        "ziqipang/LM4VisualEncoding, video_understanding/run_class_finetuning.py at 3800d80 and "
        "scripts/ssv2_vits_llama.sh at 2783353",
        {
            "epochs": 40,
            "batch_size": 6,  # of each GPU
            "opt": "adamw",
            "lr": 1e-3,
            "layer_decay": 0.7,
            "weight_decay": 0.05,
            "clip_grad": None,
            "warmup_lr": 1e-6,  # without effect, see below
            "min_lr": 1e-6,
            "warmup_epochs": 5,
            "drop_path": 0.1,
            "init_scale": 0.001,
            "aa": "rand-m7-n4-mstd0.5-inc1",
            "smoothing": 0.1,
            "reprob": 0.25,
            "mixup": 0.8,
            "cutmix": 1.0,
            "mixup_prob": 1.0,
            "mixup_switch_prob": 0.5,
            "mixup_mode": "batch",
            "num_sample": 2,
        },
        {
            "batch_size": 4 * 6,  # four GPUs
            "lr_batch_size": 256,  # args.lr * total_batch_size / 256
            "schedule": "cosine",  # utils.cosine_scheduler
            "warmup_lr": 0.0,  # cosine_scheduler's start_warmup_value: --warmup_lr is not given
            "warmup_prefix": True,  # the cosine has the steps after the warm-up
            "scale_min_lr": True,  # args.min_lr * total_batch_size / 256
            "lr_per_step": True,  # one value for each iteration
            "repeats": 1,
            "flip": 0.0,  # ssv2.py: no flip, left and right are in the labels
        },
    ),
}
BASE = {"epochs": 30, "batch_size": 4 * 3, "lr": 5e-4, "layer_decay": 0.75}
"""What differs for ViT-B: scripts/ssv2_vitb_llama.sh, and the default of layer_decay."""

PAPER = {
    "weight_decay": 1e-5,  # as the paper states
    "mixup_mode": "elem",  # ours: a draw that a batch shares would correlate its gradients
    "repeats": 1,  # ours, for the same reason
}
"""What the AAAI 2025 paper's recipe has in place of DeiT's values."""
