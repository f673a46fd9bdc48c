/** The words of a command: cutting its text, and reading them one after the other. */
import { type TenantId, type TimelineId, parseTenantId, parseTimelineId } from "../../../base/ids.ts";
import { type Lsn, parseLsn } from "../../../base/lsn.ts";
import { JsonFields } from "../../json-fields.ts";
import { usage } from "../http-errors.ts";

/** Blanks, and the semicolon that people and programs put at the end. */
export function trimCommand(text: string): string {
  return text.replace(/^[\s;]+/, "").replace(/[\s;]+$/, "");
}

export class Arguments {
  private readonly synopsis: string;
  private rest: string;

  /** `text` is what stands behind the command's name; `synopsis` is for errors. */
  constructor(text: string, synopsis: string) {
    this.rest = text.trim();
    this.synopsis = synopsis;
  }

  get atEnd(): boolean {
    return this.rest === "";
  }

  /** The next word; quoted with ' or ", it may contain blanks. Throws `usage` if there is none. */
  word(what: string): string {
    const word = this.optionalWord();
    if (word === undefined) throw this.wrong(`${what} is missing`);
    return word;
  }

  optionalWord(): string | undefined {
    if (this.rest === "") return undefined;
    const match = /^(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)"|([^\s'"]\S*))(?:\s+|$)/.exec(this.rest);
    if (!match) throw this.wrong("a quoted word has no end");
    this.rest = this.rest.slice(match[0].length);
    return match[1]?.replaceAll("''", "'") ?? match[2]?.replaceAll('""', '"') ?? match[3];
  }

  tenantId(): TenantId {
    return parseTenantId(this.word("the tenant id"));
  }

  timelineId(): TimelineId {
    return parseTimelineId(this.word("the timeline id"));
  }

  lsn(what: string): Lsn {
    const text = this.word(what);
    const lsn = parseLsn(text);
    if (lsn === undefined) throw this.wrong(`"${text}" is no LSN such as 0/16E2408`);
    return lsn;
  }

  /** The rest as a JSON object; call `end()` on it after the last field. */
  json(): JsonFields {
    let value: unknown;
    try {
      value = JSON.parse(this.rest);
    } catch {
      // The text itself is not shown: it may hold a password.
      throw this.wrong("the argument is no JSON");
    }
    this.rest = "";
    return new JsonFields(value, "", usage);
  }

  /** Everything that is left, as it is. */
  remainder(): string {
    const { rest } = this;
    this.rest = "";
    return rest;
  }

  end(): void {
    if (this.rest !== "") throw this.wrong(`"${this.rest.slice(0, 40)}" is too much`);
  }

  wrong(what: string): Error {
    return usage(`${what}; the command is: ${this.synopsis}`);
  }
}
