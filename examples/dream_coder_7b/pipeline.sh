# shellcheck shell=bash
# Dream-Coder 7B from raw text to verdicts, as jobs: slurm/pipeline.sh examples/dream_coder_7b/pipeline.sh
#
# Not run at this size. Look first: --dry-run prints the jobs and their graph. Nodes, times and numbers of
# steps are to be fitted to the cluster and to the data that was kept; docs/cluster.md begins before this.
# Inputs: raw/ (mixture.yaml), the folders of Qwen2.5-Coder-7B and of the post-training sets.
recipes=examples/dream_coder_7b
tokenizer=tokenizers/qwen2.5-coder-7b
base="${BASE_MODEL:-models/Qwen2.5-Coder-7B}"
gpu_nodes="--nodes=12"

stage import command.sbatch -- import-hf "$base" checkpoints/qwen2.5-coder-7b
stage train_data preprocess.sbatch after= --nodes=16 -- --recipe $recipes/mixture.yaml
stage valid_data command.sbatch after= -- preprocess \
    --input raw/valid.jsonl --output-prefix data/valid --tokenizer $tokenizer --append-eod --workers 16
stage index build_index.sbatch after=train_data,valid_data -- --config $recipes/pretrain.yaml --token-budget 322B
stage pretrain pretrain.sbatch after=import,index $gpu_nodes -- --config $recipes/pretrain.yaml

stage answers command.sbatch after= -- prepare-sft --input raw/ling_coder_sft --output-prefix data/ling_coder_sft \
    --tokenizer $tokenizer --messages-key messages --max-length 4000 --valid-share 0.001
stage sft sft.sbatch after=answers,pretrain $gpu_nodes -- --config $recipes/sft.yaml

stage problems command.sbatch after= -- curate \
    --input kodcode:raw/kodcode deepcoder:raw/deepcoder guru:raw/guru --output data/rl_problems
stage rl rl.sbatch after=problems,sft $gpu_nodes -- --config $recipes/rl.yaml

stage export export.sbatch -- runs/dream_coder_7b_rl exports/dream_coder_7b --tokenizer $tokenizer
stage evaluate evaluate.sbatch -- exports/dream_coder_7b evaluation/HumanEval.jsonl results/humaneval \
    --max-new-tokens 512 --steps 512
