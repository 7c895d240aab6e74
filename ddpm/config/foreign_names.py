"""Names that options have in other programs, or had in earlier versions, and what to type here instead."""

from collections.abc import Collection
from difflib import get_close_matches

# What to type: the first of these options that the command has, or else the sentence, which has spaces; and the names
# for which this is said, with underscores for dashes.
INSTEAD: dict[tuple[str, ...], str] = {
    ("train.learning_rate",): "lr learn_rate base_lr max_lr peak_lr initial_lr alpha",
    ("give train.steps instead: epochs x number of images / train.batch_size",):
        "epochs num_epochs n_epochs num_train_epochs max_epochs epoch",
    ("train.steps", "steps"): (
        "max_train_steps num_steps max_steps iterations iters num_iterations train_num_steps max_iter total_steps "
        "n_iter lr_anneal_steps"
    ),
    ("give train.steps instead: kimg x 1000 / train.batch_size",): "kimg total_kimg duration",
    ("train.batch_size", "batch_size"): "bs batch train_batch_size batchsize b",
    ("give train.batch_size instead, which counts all devices: images per device x devices x accumulation steps",):
        "per_device_train_batch_size batch_gpu",
    ("sample.batch_size", "batch_size"): "eval_batch_size sample_batch_size",
    ("train.gradient_accumulation_steps",): (
        "accumulation accum grad_accum gradient_accumulation accumulate_grad_batches gradient_accumulate_every "
        "accumulation_steps"
    ),
    ("give train.gradient_accumulation_steps instead: train.batch_size / (processes x microbatch)",): "microbatch",
    ("train.max_grad_norm",): "clip_norm grad_clip clip_grad gradient_clip_val max_norm clip",
    ("train.lr_schedule",): "decay lr_scheduler scheduler_type lr_decay",
    ("train.warmup_steps",): "warmup lr_warmup_steps num_warmup_steps warmup_iters",
    ("train.weight_decay",): "wd adam_weight_decay",
    ("train.beta2",): "adam_beta2 betas",
    ("give train.ema_half_life in images instead: train.batch_size x ln 2 / (1 - decay)",):
        "ema_decay ema_rate ema_max_decay",
    ("the weights are always averaged; train.ema_half_life says over how many images",): "ema use_ema",
    ("train.mixed_precision", "mixed_precision"): "precision amp fp16 bf16 use_fp16 half dtype autocast",
    ("train.seed", "seed"): "random_seed manual_seed rng_seed",
    ("train.optimizer",): "optim optimizer_type optimizer_name",
    ("diffusion.weighting",): "loss snr_gamma min_snr_gamma loss_type",
    ("data.source", "reference"): (
        "train_data_dir data_dir dataset dataset_name data_path dataset_path image_dir images_dir train_dir "
        "image_folder folder root dataroot path input_dir instance_data_dir real ref ref_path real_images"
    ),
    ("study",): "config",
    ("data.resolution",): "image_size img_size size imsize crop_size res",
    ("data.channels",): "image_channels in_channels img_channels",
    ("model.channels",): "num_channels dim model_channels base_channels width hidden_size",
    ("data.horizontal_flip",): "flip random_flip hflip mirror xflip augment_horizontal_flip",
    ("data.workers",): "num_workers dataloader_num_workers n_workers nproc",
    ("data.labels", "data.label_column"): "labels label_file metadata annotations csv",
    ("data.fit", "data.resolution"): "crop center_crop pad resize_mode stretch",
    ("the number of classes comes from the data",): "num_classes n_classes class_cond",
    ("data.split",): "train_split",
    ("held_out_split", "training has no validation images; give them to scripts/evaluate.py as --held-out-split"):
        "val_split validation_split test_split",
    ("model.channel_mult",): "dim_mults ch_mult channel_multipliers",
    ("give model.channels, the first of them, and model.channel_mult, their ratios to it",): "block_out_channels",
    ("model.num_res_blocks",): "layers_per_block num_blocks res_blocks",
    ("model.attention_resolutions",): "attn_resolutions attention_res attn",
    ("model.head_channels",): "num_head_channels attention_head_dim dim_head",
    ("give model.head_channels instead: channels of a stage / number of heads",): "num_heads heads",
    ("model.norm",): "use_scale_shift_norm resnet_time_scale_shift normalization",
    ("model.condition_at",): "conditioned_depths conditioned_levels",
    (
        "run_dir",
        "model.pretrained",
        "give the model without an option, as the first word after the name of the script",
    ): (
        "pretrained_model pretrained_model_name_or_path init_from finetune_from checkpoint ckpt ckpt_path "
        "checkpoint_path model_path model_dir weights load load_checkpoint run"
    ),
    ("diffusion.num_timesteps", "steps"): "timesteps t diffusion_steps num_train_timesteps ddpm_num_steps",
    ("diffusion.schedule", "schedule"): "noise_schedule beta_schedule ddpm_beta_schedule",
    ("diffusion.prediction", "prediction"): "prediction_type objective predict_xstart parameterization",
    ("diffusion.class_dropout_prob",):
        "label_dropout class_dropout drop_prob cond_drop_prob unconditional_prob p_uncond cfg_dropout ucg_rate",
    ("diffusion.learned_variance",): "learn_sigma learn_variance",
    ("steps", "sample.steps"):
        "num_inference_steps sampling_steps inference_steps sampling_timesteps ddim_steps timestep_respacing nfe",
    ("guidance_scale", "sample.guidance_scale"): "guidance cfg cfg_scale w cond_scale unconditional_guidance_scale",
    ("per_class", "count", "sample.per_class"):
        "n num_samples n_samples num_images samples nimg num_images_per_prompt num_images_per_class",
    ("classes",): "class cls label class_labels class_name class_idx class_id y",
    ("classes", "the model knows classes instead of texts"): "prompt text",
    ("sampler", "sample.sampler"): "scheduler sample_method solver",
    ("timestep_spacing", "sample.timestep_spacing"): "spacing time_spacing",
    ("blend",): "interpolate interpolation",
    ("metrics", "evaluation.every"): "fid compute_fid",
    ("out", "run_dir"): (
        "output_dir output o outdir save_dir results_folder logdir log_dir out_dir output_path save_path "
        "results_dir workdir run_path exp_dir name run_name exp_name experiment experiment_name"
    ),
    ("train.checkpoint_every",): (
        "save_every save_interval checkpointing_steps save_steps save_and_sample_every "
        "checkpoint_interval save_freq"
    ),
    ("give train.checkpoint_every in steps: epochs x number of images / train.batch_size",): "save_model_epochs",
    ("train.sample_every",): "sample_interval validation_steps",
    ("give train.sample_every in steps: epochs x number of images / train.batch_size",):
        "save_images_epochs validation_epochs",
    ("evaluation.every",): "eval_every eval_steps eval_interval",
    ("train.log_every",): "log_interval logging_steps print_every log_freq",
    ("train.keep_checkpoints",): "checkpoints_total_limit save_total_limit max_checkpoints",
    ("config", "study", "flags"): "config_file cfg_file yaml conf c",
    ("tracking.wandb",): "wandb use_wandb logger report_to log_with track no_wandb wandb_mode",
    ("tracking.wandb_project",): "project project_name wandb_name",
    ("to", "upload a finished run with scripts/push.py RUN --to OWNER/NAME"):
        "push_to_hub hub_model_id repo repo_id hub_token",
    ("weights are always saved as safetensors; leave it out",): "use_safetensors",
    ("--run-dir DIR alone continues the run in DIR, and so does the same command again",):
        "resume resume_from_checkpoint resume_from continue resume_checkpoint auto_resume",
    ("a GPU is used if there is one; set CUDA_VISIBLE_DEVICES to choose one, or ACCELERATE_USE_CPU=true for none",):
        "device gpu gpus gpu_id gpu_ids cuda cpu no_cuda accelerator devices use_gpu",
    ("start several processes with accelerate launch, instead of python",):
        "num_processes nproc_per_node num_gpus multi_gpu local_rank nodes ddp",
    ("train.compile", "compile"): "torch_compile use_compile",
    ("nothing is overwritten; choose another directory with --run-dir or --out",):
        "overwrite force overwrite_output_dir",
    ("there is no such option; leave it out",): "verbose v debug quiet version",
}
FOREIGN_NAMES = {name: instead for instead, names in INSTEAD.items() for name in names.split()}


def suggest_option(name: str, known: Collection[str]) -> str:
    """Return what to type instead of an unknown option, as the end of a message; an empty string if nothing is close.

    Args:
        name: the unknown name, as it was typed, such as `--lr` or `train.lr`.
        known: the options that there are, spelled as the message should spell them.
    """
    by_plain = {_plain(option): option for option in known}
    wanted = _plain(name)
    last = wanted.rpartition(".")[2]
    of_last = [plain for plain in by_plain if plain.rpartition(".")[2] == last]
    for foreign in (wanted, "" if of_last else last):
        for instead in FOREIGN_NAMES.get(foreign, ()):
            if instead in by_plain:
                return f"; did you mean {by_plain[instead]}?"
            if " " in instead:
                return f"; {instead}"
    if "." not in wanted and of_last:
        *others, last = [by_plain[plain] for plain in of_last]
        return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    close = get_close_matches(wanted, of_last or by_plain, n=1, cutoff=0.6)
    return f"; did you mean {by_plain[close[0]]}?" if close else ""


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
