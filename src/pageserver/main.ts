/** The pageserver as a program: command line, log, signals, exit code. Prints nothing on stdout but what was asked for. */
import { type Logger, destination, pino } from "pino";
import { ErrorCode, NeonError, messageOf } from "../base/errors.ts";
import { type PageserverOptions, USAGE, parseCommandLine, readOptions } from "./options.ts";
import { Pageserver, type PageserverDependencies, packageVersion } from "./server.ts";
import type { ServedTimeline } from "./timeline/served-timeline.ts";

/** Makes what the server works with, once its settings are known. */
export type Assemble<T extends ServedTimeline> = (
  options: PageserverOptions,
  log: Logger,
) => PageserverDependencies<T>;

/** The same numbers as the command line's. */
const EXIT_CODES: Readonly<Partial<Record<ErrorCode, number>>> = {
  [ErrorCode.Usage]: 2,
  [ErrorCode.Conflict]: 5,
  [ErrorCode.Corrupt]: 7,
  [ErrorCode.Resource]: 9,
};

/** How much of the log is kept for a disk that has no room for it; the rest is dropped. */
const LOG_BACKLOG_BYTES_MAX = 64 * 1024;

/** Runs until it is told to stop; returns the exit code, with which the caller must end the process. */
export async function runPageserver<T extends ServedTimeline>(
  args: readonly string[],
  assemble: Assemble<T>,
): Promise<number> {
  // Synchronous, so that the last words of a process that dies are not lost.
  const output = destination({ dest: 2, sync: true, maxLength: LOG_BACKLOG_BYTES_MAX });
  // A log that cannot be written (a full disk) is no reason to end.
  output.on("error", () => undefined);
  let log = pino({ base: { pid: process.pid } }, output);
  try {
    const commandLine = parseCommandLine(args);
    if (commandLine.kind === "help") return print(USAGE);
    if (commandLine.kind === "version") return print(`${packageVersion()}\n`);
    const options = readOptions(commandLine.workdir);
    log = log.child({}, { level: options.logLevel });
    dieOnBugs(log);
    const told = untilTold();
    const starting = Pageserver.start(options, assemble(options, log));
    const signal = await Promise.race([told, starting.then(() => undefined)]);
    if (signal !== undefined) {
      // What it opens by now is as durable as it was before.
      log.info({ signal }, "told to stop before it was ready");
      return 0;
    }
    const server = await starting;
    log.info({ signal: await told }, "told to stop");
    await server.stop();
    return 0;
  } catch (error) {
    const code = error instanceof NeonError ? error.code : ErrorCode.Failed;
    const hint = error instanceof NeonError ? error.hint : undefined;
    log.fatal({ code, hint, err: error }, messageOf(error));
    return EXIT_CODES[code] ?? 1;
  }
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

/** The name of the first signal that asks for an orderly end. A second one ends the process at once. */
function untilTold(): Promise<string> {
  return new Promise((resolve) => {
    let told = false;
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
      process.on(signal, () => {
        if (told) process.exit(128 + (signal === "SIGTERM" ? 15 : signal === "SIGINT" ? 2 : 1));
        told = true;
        resolve(signal);
      });
    }
  });
}

/** What nobody caught is a bug, and its state is not to be trusted: everything durable is replayed at the next start. */
function dieOnBugs(log: Logger): void {
  const die = (error: unknown): void => {
    log.fatal({ err: error }, `internal error: ${messageOf(error)}`);
    process.exit(1);
  };
  process.on("uncaughtException", die);
  process.on("unhandledRejection", die);
}
