/** What can come next on a command line: commands, flags, their values, and names from the repository. */

/** The part of oclif's command that completion needs. */
export interface CompletableCommand {
  readonly id: string;
  readonly hidden?: boolean | undefined;
  readonly flags: Readonly<
    Record<
      string,
      {
        readonly type: string;
        readonly char?: string | undefined;
        readonly options?: readonly string[] | undefined;
      }
    >
  >;
}

/** Names that only the repository knows; each may take a moment, so they are asked for only when wanted. */
export interface NameSources {
  readonly branches: () => Promise<readonly string[]>;
  readonly computes: () => Promise<readonly string[]>;
  readonly origins: () => Promise<readonly string[]>;
  readonly tenants: () => Promise<readonly string[]>;
  readonly settings: () => Promise<readonly string[]>;
}

/** Candidates for the last of `words` (which may be empty); the others stand before it. */
export async function completions(
  words: readonly string[],
  commands: readonly CompletableCommand[],
  names: NameSources,
): Promise<string[]> {
  const current = words.at(-1) ?? "";
  const before = words.slice(0, -1);
  const visible = commands.filter((command) => !command.hidden);
  const command = longestCommand(visible, before);
  const candidates = command
    ? await candidatesOf(command, before, current, names)
    : nextWords(visible, before);
  return [...new Set(candidates)].filter((candidate) => candidate.startsWith(current)).sort();
}

function longestCommand(
  commands: readonly CompletableCommand[],
  words: readonly string[],
): CompletableCommand | undefined {
  for (let count = Math.min(words.length, 2); count > 0; count--) {
    const id = words.slice(0, count).join(":");
    const found = commands.find((command) => command.id === id);
    if (found) return found;
  }
  return undefined;
}

function nextWords(commands: readonly CompletableCommand[], before: readonly string[]): string[] {
  return commands
    .map((command) => command.id.split(":"))
    .filter((parts) => parts.length > before.length && before.every((word, i) => parts[i] === word))
    .map((parts) => parts[before.length] ?? "");
}

async function candidatesOf(
  command: CompletableCommand,
  before: readonly string[],
  current: string,
  names: NameSources,
): Promise<readonly string[]> {
  const last = before.at(-1) ?? "";
  const flag = Object.entries(command.flags).find(
    ([name, { char }]) => last === `--${name}` || (char !== undefined && last === `-${char}`),
  );
  if (flag && flag[1].type === "option") {
    if (flag[1].options) return flag[1].options;
    if (flag[0] === "tenant-id") return names.tenants();
    if (flag[0] === "pageserver") return names.origins();
    return flag[0] === "branch" ? names.branches() : [];
  }
  if (current.startsWith("-")) return Object.keys(command.flags).map((name) => `--${name}`);
  switch (command.id) {
    case "branch":
    case "pg:create":
      return names.branches();
    case "pg:start":
      return [...(await names.computes()), ...(await names.branches())];
    case "pg:stop":
    case "pg:restart":
    case "pg:destroy":
    case "pg:url":
    case "pg:psql":
    case "logs":
      return names.computes();
    case "push":
    case "pull":
      return argumentsIn(command, before) === 0 ? names.branches() : names.origins();
    case "fetch":
    case "origin:remove":
    case "origin:rename":
    case "origin:set-url":
      return names.origins();
    case "tenant:use":
    case "tenant:delete":
      return names.tenants();
    case "config:get":
    case "config:set":
      return names.settings();
    default:
      return [];
  }
}

/** How many arguments stand behind the command already. */
function argumentsIn(command: CompletableCommand, before: readonly string[]): number {
  return before.slice(command.id.split(":").length).filter((word) => !word.startsWith("-")).length;
}

/** The script for a shell: it asks `neon completion --words` at each press of the tabulator. */
export const COMPLETION_SCRIPTS = {
  bash: `_neon_completion() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$(neon completion --words -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _neon_completion neon`,
  zsh: `#compdef neon
_neon_completion() {
  local -a candidates
  candidates=("\${(@f)$(neon completion --words -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a candidates
}
compdef _neon_completion neon`,
  fish: `complete -c neon -f -a '(neon completion --words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'`,
} as const;

export type Shell = keyof typeof COMPLETION_SCRIPTS;
