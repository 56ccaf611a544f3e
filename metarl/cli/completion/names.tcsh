        'n/--preset/(@PRESETS@)/' \
        'n@--resume@`sh -c "ls runs/*/config.yaml runs/comparison-*/settings.json 2>/dev/null" | cut -d/ -f2`@' \
        'n@{--start-from,--teacher,evaluate,compare,tensorboard,adapt,render,report}@`sh -c "ls runs/*/config.yaml runs/comparison-*/settings.json 2>/dev/null | cut -d/ -f2; echo @SHIPPED@"`@' \
        'n/train/(@AGENTS@)/' \
        'n/{envs,check}/(@FAMILIES@)/' \
        'N/train/(@FAMILIES@)/' \
