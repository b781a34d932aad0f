# shellcheck shell=bash
#
# Completion of rnbd(8) for bash: the command itself says what may follow.

_rnbd() {
  local line=${COMP_LINE:0:COMP_POINT} word IFS=$' \t\n'
  local -a words
  # Not COMP_WORDS: bash breaks words at the colons and signs of addresses.
  read -ra words <<<"$line"
  [[ $line != *[[:space:]] ]] || words+=("")
  COMPREPLY=()
  while IFS= read -r word; do
    COMPREPLY+=("$word")
  done < <("${words[0]}" --complete "${words[@]:1}" 2>/dev/null)
  # Bash replaces what is behind the last of its break characters.
  local current=${words[-1]} break_at
  for break_at in : @ =; do
    [[ $current == *"$break_at"* && $COMP_WORDBREAKS == *"$break_at"* ]] || continue
    local kept=${current%"$break_at"*}$break_at
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
    current=${current#"$kept"}
  done
}

complete -F _rnbd rnbd
