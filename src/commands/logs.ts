import { string as stringArg } from "@oclif/core/args";
import { boolean, integer } from "@oclif/core/flags";
import { ErrorCode, NeonError, systemCode } from "../base/errors.ts";
import { BaseCommand, type JsonFields } from "./shared/base-command.ts";

const DEFAULT_LINES = 100;

export default class Logs extends BaseCommand {
  static override summary = "Show the log of the pageserver or of a compute.";
  static override description =
    "The pageserver writes lines of JSON; they are shown as text unless --raw is given. With NAME: what that " +
    "compute's Postgres logs.";
  static override examples = [
    "<%= config.bin %> logs",
    "<%= config.bin %> logs main --follow",
    "<%= config.bin %> logs --raw --lines 1000",
  ];
  static override args = {
    name: stringArg({ description: "A compute; the pageserver unless given." }),
  };
  static override flags = {
    lines: integer({ char: "n", summary: "How many lines from the end.", default: DEFAULT_LINES, min: 0 }),
    follow: boolean({ default: false, char: "f", summary: "Go on with what is appended, until Ctrl-C." }),
    raw: boolean({ default: false, summary: "Lines as they are in the file." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(Logs);
    if (flags.follow && this.jsonEnabled()) {
      throw new NeonError(ErrorCode.Usage, "--follow and --json exclude each other", {
        hint: "--follow --raw shows the pageserver's log as lines of JSON.",
      });
    }
    const repository = await this.findRepository(flags);
    const path = await this.pathOf(args.name, repository, flags);
    const { followLines, lastLines } = await import("./shared/follow-file.ts");
    const { formatLogLine } = await import("./shared/log-line.ts");
    const show = (line: string): string => (flags.raw ? line : formatLogLine(line));
    try {
      const { lines, endBytes } = await lastLines(path, flags.lines);
      for (const line of lines) this.print(show(line));
      if (flags.follow) {
        for await (const more of followLines(path, endBytes, this.interruption.signal)) {
          for (const line of more) this.print(show(line));
        }
        // Ctrl-C is how one leaves it; that is no failure.
        return {};
      }
      return { path, lines };
    } catch (error) {
      if (systemCode(error) !== "ENOENT") throw error;
      const who = args.name === undefined ? "the pageserver" : `compute "${args.name}"`;
      throw new NeonError(ErrorCode.NotFound, `${who} has no log yet`, {
        hint:
          args.name === undefined
            ? "Start it with `neon start`."
            : `Start it: \`neon pg start ${args.name}\`.`,
      });
    }
  }

  private async pathOf(
    name: string | undefined,
    repository: Awaited<ReturnType<Logs["findRepository"]>>,
    flags: { "tenant-id"?: string | undefined },
  ): Promise<string> {
    if (name === undefined) {
      const { PageserverProcess } = await import("../compute/pageserver-process.ts");
      return new PageserverProcess(repository).logPath;
    }
    const { computesOf } = await import("./shared/computes.ts");
    const computes = computesOf(repository, await this.pageserverOf(repository, flags));
    await computes.get(name);
    return computes.logPath(name);
  }
}
