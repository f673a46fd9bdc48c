/** What a command of the libpq service is, and the table that finds it by its name. */
import type { Column } from "../../../pgwire/encode-backend.ts";
import type { Statement, StatementSession } from "../../../pgwire/statement.ts";
import type { NeonError } from "../../../base/errors.ts";
import { toNeonError, usage } from "../http-errors.ts";
import { Arguments, trimCommand } from "./arguments.ts";
import type { Identity } from "../identity.ts";

export type CommandSession = StatementSession<Identity>;

/** A command whose arguments have been read. What it throws becomes an ErrorResponse. */
export interface PreparedCommand {
  /** Undefined for one that answers by a copy, or by nothing. */
  readonly columns?: readonly Column[];
  run(session: CommandSession): Promise<void>;
}

export interface LibpqCommand {
  /** One or two words in lower case. */
  readonly name: string;
  /** Name and arguments, for people. */
  readonly synopsis: string;
  readonly summary: string;
  /** Reads the arguments; throws `usage`. Must not do anything yet: a driver may only want to know the columns. */
  prepare(args: Arguments): PreparedCommand;
}

/** What is told of a command that has ended, one way or the other. */
export interface CommandRun {
  readonly name: string;
  readonly user: string;
  readonly ms: number;
  readonly error: NeonError | undefined;
}

/** One column of text, as commands that answer with JSON have it. */
export const DATA_COLUMN: readonly Column[] = [{ name: "data", type: "text" }];

/** A command that answers with one row, one column of JSON. */
export function jsonAnswer(answer: (session: CommandSession) => Promise<unknown>): PreparedCommand {
  return {
    columns: DATA_COLUMN,
    run: async (session) => session.row([JSON.stringify(await answer(session))]),
  };
}

export class CommandTable {
  private readonly commands = new Map<string, LibpqCommand>();
  private readonly onEnd: (run: CommandRun) => void;

  constructor(commands: readonly LibpqCommand[], onEnd: (run: CommandRun) => void = () => undefined) {
    this.onEnd = onEnd;
    for (const command of commands) this.commands.set(command.name, command);
  }

  list(): LibpqCommand[] {
    return [...this.commands.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Undefined for an empty text. Throws `usage` for what is no command, or one with wrong arguments. */
  prepare(text: string): Statement<Identity> | undefined {
    const trimmed = trimCommand(text);
    if (trimmed === "") return undefined;
    const match = /^(\S+)(?:\s+(\S+))?/.exec(trimmed);
    const first = (match?.[1] ?? "").toLowerCase();
    const both = `${first} ${(match?.[2] ?? "").toLowerCase()}`;
    const name = this.commands.has(both) ? both : first;
    const command = this.commands.get(name);
    if (!command) throw this.unknown(first);
    // Two words may have any blanks between them.
    const rest = name === both ? trimmed.slice(match?.[0].length) : trimmed.slice(first.length);
    const args = new Arguments(rest, command.synopsis);
    const prepared = command.prepare(args);
    args.end();
    return {
      columns: prepared.columns,
      run: async (session) => {
        const started = performance.now();
        let failure: NeonError | undefined;
        try {
          await prepared.run(session);
          return undefined;
        } catch (error) {
          failure = toNeonError(error);
          throw failure;
        } finally {
          this.onEnd({ name, user: session.identity.user, ms: performance.now() - started, error: failure });
        }
      },
    };
  }

  private unknown(word: string): Error {
    const names = this.list().map((command) => command.name);
    return usage(`unknown command "${word.slice(0, 40)}"; there are ${names.join(", ")}`);
  }
}
