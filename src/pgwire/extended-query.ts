/**
 * The extended query protocol: Parse, Bind, Describe, Execute, Close, Sync. Our statements have no parameters; drivers
 * that prepare everything work all the same.
 * Source: PostgreSQL 17 documentation, "Extended Query".
 */
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError, corrupt } from "../base/errors.ts";
import {
  BindComplete,
  CloseComplete,
  NoData,
  ParseComplete,
  encodeEmpty,
  encodeEmptyQueryResponse,
  encodeParameterDescription,
  encodeReadyForQuery,
  encodeRowDescription,
} from "./encode-backend.ts";
import type { FrameConnection } from "./frame-connection.ts";
import type { Frame } from "./frame.ts";
import { Frontend } from "./frontend.ts";
import type { Statement, Statements } from "./statement.ts";
import { WireError, encodeError } from "./wire-errors.ts";

/** Prepared statements and portals of one connection, each. */
const NAMES_MAX = 256;
const STATEMENT = "S".charCodeAt(0);
const PORTAL = "P".charCodeAt(0);
/** Longest text of a statement that is kept, in characters. */
const KEPT_TEXT_LENGTH_MAX = 100_000;

/** Undefined stands for an empty query. */
type Prepared<Identity> = { readonly statement: Statement<Identity> | undefined };
type Portal<Identity> = Prepared<Identity> & { readonly formats: readonly number[] };

export class ExtendedQuery<Identity> {
  private readonly connection: FrameConnection;
  private readonly backends: Statements<Identity>;
  private readonly run: (statement: Statement<Identity>, formats: readonly number[]) => Promise<void>;
  private readonly statements = new Map<string, Prepared<Identity>>();
  private readonly portals = new Map<string, Portal<Identity>>();
  /** After an error everything up to the next Sync is skipped. */
  private failed = false;

  constructor(
    connection: FrameConnection,
    backends: Statements<Identity>,
    run: (statement: Statement<Identity>, formats: readonly number[]) => Promise<void>,
  ) {
    this.connection = connection;
    this.backends = backends;
    this.run = run;
  }

  /** A simple query drops what is unnamed. */
  reset(): void {
    this.statements.delete("");
    this.portals.delete("");
    this.failed = false;
  }

  /** Answers one message; false if it is none of this protocol. */
  async take(frame: Frame): Promise<boolean> {
    if (frame.type === Frontend.Sync) {
      this.failed = false;
      this.portals.clear();
      await this.connection.write(encodeReadyForQuery());
      return true;
    }
    if (frame.type === Frontend.Flush) return true;
    const action = this.actionFor(frame.type);
    if (!action) return false;
    if (this.failed) return true;
    try {
      await action(new ByteReader(frame.body));
    } catch (error) {
      this.failed = true;
      await this.connection.write(encodeError(error));
    }
    return true;
  }

  private actionFor(type: number): ((reader: ByteReader) => Promise<void>) | undefined {
    switch (type) {
      case Frontend.Parse:
        return (reader) => this.parse(reader);
      case Frontend.Bind:
        return (reader) => this.bind(reader);
      case Frontend.Describe:
        return (reader) => this.describe(reader);
      case Frontend.Execute:
        return (reader) => this.execute(reader);
      case Frontend.Close:
        return (reader) => this.close(reader);
      default:
        return undefined;
    }
  }

  private async parse(reader: ByteReader): Promise<void> {
    const name = reader.cstring();
    const text = reader.cstring();
    // Types of parameters that a client may announce; there are no parameters all the same.
    reader.skip(4 * reader.u16be());
    expectEnd(reader);
    if (name !== "" && text.length > KEPT_TEXT_LENGTH_MAX) {
      throw new NeonError(ErrorCode.Usage, `a statement of ${text.length} characters cannot be given a name`);
    }
    if (name !== "" && this.statements.has(name)) {
      throw new WireError("42P05", ErrorCode.Exists, `prepared statement "${name}" exists already`);
    }
    put(this.statements, name, { statement: this.backends.prepare(text) }, "prepared statements");
    await this.connection.write(encodeEmpty(ParseComplete));
  }

  private async bind(reader: ByteReader): Promise<void> {
    const portal = reader.cstring();
    const { statement } = this.statement(reader.cstring());
    codes(reader);
    const parameters = reader.u16be();
    if (parameters > 0) {
      throw new NeonError(
        ErrorCode.Usage,
        `${parameters} parameters are given, but statements here have none`,
        {
          hint: "Write the values into the text of the statement.",
        },
      );
    }
    const formats = codes(reader);
    expectEnd(reader);
    put(this.portals, portal, { statement, formats }, "portals");
    await this.connection.write(encodeEmpty(BindComplete));
  }

  private async describe(reader: ByteReader): Promise<void> {
    const kind = reader.u8();
    const name = reader.cstring();
    expectEnd(reader);
    if (kind === STATEMENT) {
      const { statement } = this.statement(name);
      await this.connection.write(
        Buffer.concat([encodeParameterDescription(), describeColumns(statement, [])]),
      );
    } else if (kind === PORTAL) {
      const { statement, formats } = this.portal(name);
      await this.connection.write(describeColumns(statement, formats));
    } else {
      throw corrupt(`Describe of kind ${kind}`);
    }
  }

  private async execute(reader: ByteReader): Promise<void> {
    const name = reader.cstring();
    // Results are small: all rows come at once, whatever the limit.
    reader.skip(4);
    expectEnd(reader);
    const { statement, formats } = this.portal(name);
    if (statement) await this.run(statement, formats);
    else await this.connection.write(encodeEmptyQueryResponse());
  }

  private async close(reader: ByteReader): Promise<void> {
    const kind = reader.u8();
    const name = reader.cstring();
    expectEnd(reader);
    if (kind !== STATEMENT && kind !== PORTAL) throw corrupt(`Close of kind ${kind}`);
    (kind === STATEMENT ? this.statements : this.portals).delete(name);
    await this.connection.write(encodeEmpty(CloseComplete));
  }

  private statement(name: string): Prepared<Identity> {
    const prepared = this.statements.get(name);
    if (prepared) return prepared;
    throw new WireError("26000", ErrorCode.NotFound, `prepared statement "${name}" does not exist`);
  }

  private portal(name: string): Portal<Identity> {
    const portal = this.portals.get(name);
    if (portal) return portal;
    throw new WireError("34000", ErrorCode.NotFound, `portal "${name}" does not exist`);
  }
}

function put<T>(into: Map<string, T>, name: string, value: T, what: string): void {
  if (!into.has(name) && into.size >= NAMES_MAX) {
    throw new NeonError(ErrorCode.Resource, `a connection may have ${NAMES_MAX} ${what}`, {
      hint: "Close those that are not needed.",
    });
  }
  into.set(name, value);
}

/** Format codes: 0 text, 1 binary. */
function codes(reader: ByteReader): number[] {
  const found: number[] = [];
  for (let count = reader.u16be(); count > 0; count--) {
    const code = reader.u16be();
    if (code > 1) throw corrupt(`format code ${code}`);
    found.push(code);
  }
  return found;
}

function describeColumns(
  statement: { readonly columns: Statement<unknown>["columns"] } | undefined,
  formats: readonly number[],
): Uint8Array {
  return statement?.columns ? encodeRowDescription(statement.columns, formats) : encodeEmpty(NoData);
}

function expectEnd(reader: ByteReader): void {
  if (reader.remaining > 0) throw corrupt(`${reader.remaining} bytes behind the end of a message`);
}
