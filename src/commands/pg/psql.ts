import { delimiter, join } from "node:path";
import { string as stringArg } from "@oclif/core/args";
import { boolean, string as stringFlag } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { ComputeInfo } from "../../compute/compute-manager.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class PgPsql extends BaseCommand {
  static override summary = "Open an SQL prompt on a compute.";
  static override description =
    "Runs psql where it is installed (or what $NEON_PSQL names); what follows `--` is passed on to it and its exit code is ours. Otherwise, and " +
    "with --builtin, a small prompt of our own.\n\n" +
    "With --json the statements of --command, or of stdin, are run and their results printed as JSON.";
  static override examples = [
    "<%= config.bin %> pg psql main",
    "<%= config.bin %> pg psql main -- -X -f schema.sql",
    '<%= config.bin %> pg psql dev --json -c "SELECT count(*) FROM users"',
  ];
  static override strict = false;
  static override args = { name: stringArg({ description: "Name of the compute.", required: true }) };
  static override flags = {
    command: stringFlag({ char: "c", summary: "Run this SQL and end.", helpValue: "SQL" }),
    database: stringFlag({ char: "d", summary: "Database to connect to.", default: "postgres" }),
    builtin: boolean({ default: false, summary: "Use the built-in prompt although psql is there." }),
  };

  async run(): Promise<JsonFields> {
    const { args, argv, flags } = await this.parse(PgPsql);
    const passed = argv.slice(1).map(String);
    const repository = await this.findRepository(flags);
    const { computesOf } = await import("../shared/computes.ts");
    const compute = await computesOf(repository, await this.pageserverOf(repository, flags)).get(args.name);
    if (compute.state !== "running") {
      throw new NeonError(ErrorCode.Conflict, `compute "${args.name}" is ${compute.state}`, {
        hint: `Start it with \`neon pg start ${args.name}\`.`,
      });
    }
    const uri = uriOfDatabase(compute, flags.database);
    if (this.jsonEnabled()) return this.runForJson(uri, flags.command);
    const psql = flags.builtin ? undefined : await findPsql();
    if (psql !== undefined) {
      const own = flags.command === undefined ? [] : ["--command", flags.command];
      process.exitCode = await this.runProgram(psql, [...own, ...passed, "--dbname", uri]);
      return {};
    }
    if (passed.length > 0) {
      throw new NeonError(ErrorCode.Usage, `the built-in prompt knows no arguments (${passed.join(" ")})`, {
        hint: "Install psql, use -c SQL, or send statements to its stdin.",
      });
    }
    await this.runBuiltin(uri, flags.database, flags.command);
    return {};
  }

  private async runForJson(uri: string, command: string | undefined): Promise<JsonFields> {
    const { text } = await import("node:stream/consumers");
    const { SqlSession } = await import("../shared/sql-session.ts");
    const sql = command ?? (await text(process.stdin));
    await using session = await SqlSession.connect(uri, () => undefined);
    const results = await session.run(sql);
    return {
      results: results.map((result) => ({
        command: result.command,
        row_count: result.rowCount,
        columns: result.columns,
        rows: result.rows,
      })),
    };
  }

  private async runBuiltin(uri: string, database: string, command: string | undefined): Promise<void> {
    const { SqlSession } = await import("../shared/sql-session.ts");
    const { formatResult, runSqlPrompt } = await import("../shared/sql-prompt.ts");
    await using session = await SqlSession.connect(uri, (notice) => this.say(notice));
    if (command === undefined) {
      process.exitCode = await runSqlPrompt(session, database);
      return;
    }
    for (const result of await session.run(command)) this.print(formatResult(result));
  }

  /** Runs psql in our place: it gets Ctrl-C, we only wait. */
  private async runProgram(program: string, args: readonly string[]): Promise<number> {
    const { spawn } = await import("node:child_process");
    const { signalExitCode } = await import("../shared/failure.ts");
    this.interruption[Symbol.dispose]();
    process.on("SIGINT", ignoreSignal);
    const child = spawn(program, args, { stdio: "inherit" });
    process.on("SIGTERM", () => child.kill("SIGTERM"));
    return new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", (code, signal) => resolve(signal === null ? (code ?? 1) : signalExitCode(signal)));
    });
  }
}

function uriOfDatabase(compute: ComputeInfo, database: string): string {
  const uri = new URL(compute.uri);
  uri.pathname = `/${encodeURIComponent(database)}`;
  return uri.href;
}

function ignoreSignal(): void {
  // The child gets it as well and decides.
}

/** psql on the search path, or what $NEON_PSQL names. */
async function findPsql(): Promise<string | undefined> {
  const { accessSync, constants } = await import("node:fs");
  const named = process.env["NEON_PSQL"];
  if (named) return named;
  for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
    const path = join(directory || ".", "psql");
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next one.
    }
  }
  return undefined;
}
