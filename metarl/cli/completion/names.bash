
# Names that the parser does not know: agents, families, presets, the runs in runs/, and those of the project.
_metarl_names() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" names="" config shipped="@SHIPPED@"
  local runs=""
  for config in runs/*/config.yaml runs/comparison-*/settings.json; do
    if [ -f "$config" ]; then
      config="${config%/*}"
      runs+=" ${config#runs/}"
    fi
  done

  case "$prev" in
    --preset) names="@PRESETS@" ;;
    --resume) names="$runs" ;;
    --start-from | --teacher) names="$runs $shipped" ;;
  esac
  if [ -z "$names" ] && [[ "$cur" != -* ]]; then
    case "${COMP_WORDS[1]}:$COMP_CWORD" in
      train:2) names="@AGENTS@" ;;
      train:3) names="@FAMILIES@" ;;
      envs:2 | check:2) names="@FAMILIES@" ;;
      evaluate:* | compare:* | tensorboard:*) [[ "$prev" != --* ]] && names="$runs $shipped" ;;
      adapt:2 | render:2 | report:2) names="$runs $shipped" ;;
    esac
  fi

  if [ -n "$names" ]; then
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
    [ "${#COMPREPLY[@]}" -gt 0 ] && return 0
  fi
  _tyro_metarl
}
complete -F _metarl_names metarl
