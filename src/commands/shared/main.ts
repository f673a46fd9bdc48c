/**
 * The command line's entry: finds the command with oclif and runs it. oclif's own `run` is not used because of what
 * it does with unknown commands and failures; everything else about commands and help is oclif's.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Config } from "@oclif/core/config";
import type { PJSON } from "@oclif/core/interfaces";
import { settings } from "@oclif/core/settings";
import { UnknownCommandError, failureOf } from "./failure.ts";
import { reportFailure } from "./output.ts";
import { nearest } from "./suggest.ts";

/** package.json, which tells oclif where the commands are. */
export function packageJson(root: string): PJSON {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as PJSON;
}

/** Runs the command line; sets `process.exitCode` and never throws. `root` is the directory of package.json. */
export async function main(argv: readonly string[], root: string): Promise<void> {
  try {
    await dispatch(leadingFlagsLast(argv), root);
  } catch (error) {
    const failure = failureOf(error, "");
    process.exitCode = failure.exitCode;
    reportFailure(failure, wantsJson(argv));
    if (process.env["NEON_DEBUG"]) console.error(error);
  }
}

function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  return argv.slice(0, end < 0 ? argv.length : end).includes("--json");
}

async function dispatch(argv: string[], root: string): Promise<void> {
  // Never look for TypeScript sources beside the compiled files, whatever NODE_ENV says.
  settings.enableAutoTranspile = false;
  const config = await Config.load({ root, pjson: packageJson(root) });
  const { words, rest } = splitWords(argv);
  const { id, used } = longestId(config, words);
  const command = config.findCommand(id);
  const wantsHelp = argv.length === 0 || words[0] === "help" || hasHelpFlag(argv);
  if (wantsHelp) {
    const subject = words[0] === "help" ? words.slice(1) : words;
    const target = longestId(config, subject);
    if (subject.length > 0 && target.id === "") throw unknownCommand(config, subject);
    await showHelp(config, target.id);
    return;
  }
  if (!command) {
    const isTopic = id !== "" && used === words.length;
    if (!isTopic) throw unknownCommand(config, words.length > 0 ? words : [argv[0] ?? ""]);
    await showHelp(config, id);
    return;
  }
  await config.runCommand(id, [...words.slice(used), ...rest], command);
}

async function showHelp(config: Config, id: string): Promise<void> {
  const { NeonHelp } = await import("./neon-help.ts");
  await new NeonHelp(config, HELP_OPTIONS).showHelp(id === "" ? [] : id.split(":"));
}

const HELP_OPTIONS = { flagSortOrder: "none", docopts: false } as const;

/** `neon --repo DIR branch` means `neon branch --repo DIR`: flags that every command has may come first. */
function leadingFlagsLast(argv: readonly string[]): string[] {
  let count = 0;
  for (let word = argv[count]; word !== undefined; word = argv[count]) {
    if (word === "--repo" || word === "--tenant-id" || word === "--pageserver") count += 2;
    else if (word === "--json" || /^--(repo|tenant-id|pageserver)=/.test(word)) count += 1;
    else break;
  }
  const rest = argv.slice(count);
  const end = rest.indexOf("--");
  rest.splice(end < 0 ? rest.length : end, 0, ...argv.slice(0, count));
  return rest;
}

/** The words before the first flag: commands come first, as `neon pg create`. */
function splitWords(argv: readonly string[]): { words: string[]; rest: string[] } {
  const at = argv.findIndex((word) => word.startsWith("-"));
  return at < 0 ? { words: [...argv], rest: [] } : { words: argv.slice(0, at), rest: argv.slice(at) };
}

/** The longest run of leading words that names a command or a topic, as oclif's id. */
function longestId(config: Config, words: readonly string[]): { id: string; used: number } {
  for (let used = words.length; used > 0; used--) {
    const id = words.slice(0, used).join(":");
    if (config.findCommand(id) || config.findTopic(id)) return { id, used };
  }
  return { id: "", used: 0 };
}

function hasHelpFlag(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  const own = end < 0 ? argv : argv.slice(0, end);
  return own.includes("--help") || own.includes("-h");
}

function unknownCommand(config: Config, words: readonly string[]): UnknownCommandError {
  const names = [...config.commandIDs, ...config.topics.map((topic) => topic.name)];
  const { id, used } = longestId(config, words);
  if (used > 0) {
    const topic = id.replaceAll(":", " ");
    const word = words[used] ?? "";
    const siblings = names
      .filter((name) => name.startsWith(`${id}:`))
      .map((name) => name.slice(id.length + 1));
    const near = nearest(word, siblings);
    const hint = near ? didYouMean(`${topic} ${near}`) : `See \`neon ${topic} --help\`.`;
    return new UnknownCommandError(`${topic} ${word}`, hint);
  }
  const typed = words[0] ?? "";
  const spaced = names.map((name) => name.replaceAll(":", " "));
  // What was typed may go on with arguments, so fewer and fewer of its words are compared.
  for (let count = Math.min(words.length, 3); count > 0; count--) {
    const near = nearest(words.slice(0, count).join(" "), spaced);
    if (near !== undefined) return new UnknownCommandError(typed, didYouMean(near));
  }
  return new UnknownCommandError(typed, "Commands: `neon --help`.");
}

function didYouMean(command: string): string {
  return `Did you mean \`neon ${command}\`?`;
}
