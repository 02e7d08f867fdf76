#!/bin/sh
# RepCount-A, from its published files to the final table. Whatever stands before the name of the script changes what it uses:
#   DATA=LLSP OUT=runs/repcount RANKS=8 sh nbs/experiments/repcount.sh
# The same command again skips what is done and goes on with what is not; FRESH=--fresh starts over.
set -e
: "${DATA:=LLSP}"                           # the unpacked data set: annotation/*.csv and video/*/*.mp4
: "${OUT:=runs/repcount}"                   # every step gets a folder inside
: "${MODEL:=Qwen/Qwen2.5-VL-3B-Instruct}"   # a name on the hub, or a folder
: "${RECIPE:=repcount_3b}"                  # settings that fit it, see nbs/experiments/recipes
: "${SIZES:=$RECIPE}"                       # a second file, whose settings win: a rehearsal has fewer steps
: "${FRESH:=}"                             # --fresh: do again what is done or begun
: "${RANKS:=8}"                             # GPUs; without GPUs, processes

step() {  # step NAME [-p NAME VALUE]…: run an experiment, unless it is done
    name=$1; shift
    case $name in cot|report) ranks=1;; *) ranks=$RANKS;; esac
    actrep run "$name" --params "$RECIPE" --params "$SIZES" --ranks "$ranks" --out "$OUT/$name" $FRESH "$@"
}

train="$DATA/annotation/train.csv" test="$DATA/annotation/test.csv"
actrep audit "$train" --videos "$DATA/video/train" --html "$OUT/audit.html"
step cot      -p clips "$train" -p videos "$DATA/video/train"
step sft      -p model "$MODEL" -p data "$OUT/cot" -p cache "$OUT/frames"
step select   -p model "$OUT/sft/checkpoint" -p clips "$train" -p videos "$DATA/video/train" -p cache "$OUT/frames"
step grpo     -p model "$OUT/sft/checkpoint" -p clips "$OUT/select/selected.jsonl" -p cache "$OUT/frames"
step evaluate -p base "$MODEL" -p sft "$OUT/sft/checkpoint" -p grpo "$OUT/grpo/checkpoint" -p clips "$test" -p videos "$DATA/video/test" \
              -p train "$train" -p none "" -p cache "$OUT/frames"
step report   -p clips "$test" -p videos "$DATA/video/test" -p rl "$OUT/select/selected.jsonl" -p data "$OUT/select" -p cot "$OUT/cot" \
              -p sft "$OUT/sft" -p grpo "$OUT/grpo" -p evaluation "$OUT/evaluate"
echo "the report: $OUT/report/report.html"
