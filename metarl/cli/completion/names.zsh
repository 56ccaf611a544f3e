
# Names that the parser does not know: agents, families, presets, the runs in runs/, and those of the project.
_metarl_names() {
  local -a names runs shipped=(@SHIPPED@)
  local config previous="${words[CURRENT-1]}"
  for config in runs/*/config.yaml(N) runs/comparison-*/settings.json(N); do
    runs+=("${config:h:t}")
  done

  case "$previous" in
    --preset) names=(@PRESETS@) ;;
    --resume) names=($runs) ;;
    --start-from | --teacher) names=($runs $shipped) ;;
  esac
  if (( ! $#names )) && [[ "${words[CURRENT]}" != -* ]]; then
    case "${words[2]}:$CURRENT" in
      train:3) names=(@AGENTS@) ;;
      train:4) names=(@FAMILIES@) ;;
      envs:3 | check:3) names=(@FAMILIES@) ;;
      evaluate:* | compare:* | tensorboard:*) [[ "$previous" != --* ]] && names=($runs $shipped) ;;
      adapt:3 | render:3 | report:3) names=($runs $shipped) ;;
    esac
  fi

  (( $#names )) && compadd -- $names && return 0
  _tyro_metarl "$@"
}
_metarl_names "$@"
