/**
 * The tour of the README: commands with what they print. It is written once, in the README, and played from there by
 * `npm run quickstart` and by the tests.
 *
 * In README.md the tour is the fenced block behind the line `<!-- tour -->`. A line that begins with `$ ` is a command,
 * run by `sh` in the directory where the commands before it ran; what follows it, up to the next command or empty line,
 * is what it prints on stdout. A command that prints something, but is shown without, is not compared.
 *
 * LSNs differ from run to run. So where a command is shown to print nothing but one LSN (in a column of `psql`, say), that
 * LSN stands for the one which is really printed there, in all commands further down. Nothing else in a command is
 * ever changed.
 */

export interface Step {
  /** As the README shows it, without the comment at its end. */
  readonly command: string;
  /** Lines that the README shows as its output; none if the output is not compared. */
  readonly output: readonly string[];
}

/** What an LSN of the README stands for in this run. */
export type LsnNames = Map<string, string>;

const TOUR = /^<!-- tour -->\n+```console\n([^]*?)^```$/m;
const COMMENT = / {2,}# .*$/;
const LSN = /\b[0-9A-F]{1,8}\/[0-9A-F]{1,8}\b/g;

/** The steps of the tour in a README. Throws if there are none. */
export function parseTour(readme: string): Step[] {
  const block = TOUR.exec(readme)?.[1];
  if (block === undefined) throw new Error("the README has no block behind <!-- tour -->");
  const steps: { command: string; output: string[] }[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("$ ")) {
      steps.push({ command: line.slice(2).replace(COMMENT, "").trimEnd(), output: [] });
    } else if (line.trim() !== "") {
      const step = steps.at(-1);
      if (step === undefined) throw new Error(`the tour begins with "${line}", which is no command`);
      step.output.push(line);
    }
  }
  if (steps.length === 0) throw new Error("the tour of the README has no commands");
  return steps;
}

/** The command as it is to be run, with the LSNs of this run in the place of those in the README. */
export function substituteLsns(command: string, names: LsnNames): string {
  return command.replace(LSN, (lsn) => {
    const actual = names.get(lsn);
    if (actual === undefined) throw new Error(`no command before "${command}" prints ${lsn}`);
    return actual;
  });
}

/** Notes what an LSN of the README stands for, if the step is one that shows nothing but an LSN. */
export function learnLsn(step: Step, printed: string, names: LsnNames): void {
  const shown = step.output.join("\n").match(LSN);
  const actual = printed.match(LSN);
  if (step.command.startsWith("neon pg psql") && shown?.length === 1 && actual?.length === 1) {
    names.set(shown[0] ?? "", actual[0] ?? "");
  }
}

/**
 * What of an output must be the same in every run: its lines, without what depends on the machine or the moment (LSNs,
 * ports, processes, sizes, directories), and without how `psql` and the built-in prompt draw tables.
 */
export function comparable(output: string): string[] {
  return output
    .split("\n")
    .map((line) =>
      line
        .replace(/\/\S*\/\.neon\b/g, "<repository>")
        .replace(LSN, "<lsn>")
        .replace(/127\.0\.0\.1:\d+/g, "127.0.0.1:<port>")
        .replace(/\bprocess \d+/g, "process <number>")
        .replace(/\b\d+(?:\.\d+)? (?:B|KiB|MiB|GiB)(?!\S)/g, "<size>")
        .replace(/ \| /g, " ")
        .replace(/\s+/g, " ")
        .trim(),
    )
    .filter((line) => line !== "" && !/^[-+]+$/.test(line));
}
