import { string as stringArg } from "@oclif/core/args";
import { boolean } from "@oclif/core/flags";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { ConfigKey, ConfigValue } from "../../repository/config-keys.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class ConfigSet extends BaseCommand {
  static override summary = "Change one setting in .neon/config.toml.";
  static override description =
    "Comments and order of the file stay as they are. Settings of the pageserver hold from its next start on, those " +
    "of a compute when it is created.";
  static override examples = [
    "<%= config.bin %> config set pageserver.listen 127.0.0.1:9900",
    "<%= config.bin %> config set computes.main.port 5432",
    "<%= config.bin %> config set pg_bin --unset",
  ];
  static override args = {
    key: stringArg({ description: "Its name, as `neon config list` shows it.", required: true }),
    value: stringArg({ description: "The new value." }),
  };
  static override flags = {
    unset: boolean({ default: false, summary: "Remove the setting, so that its default holds." }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(ConfigSet);
    if ((args.value === undefined) !== flags.unset) {
      throw new NeonError(ErrorCode.Usage, "neon config set wants a value, or --unset without one", {
        hint: "See `neon config set --help`.",
      });
    }
    const repository = await this.findRepository(flags);
    const { findConfigKey } = await import("../../repository/config-keys.ts");
    const { unknownKey } = await import("../../repository/config.ts");
    const found = findConfigKey(args.key);
    if (!found) throw unknownKey(args.key);
    if (found.key.fixed) {
      throw new NeonError(ErrorCode.Conflict, `${args.key} cannot be changed: the data depends on it`, {
        hint: "Make another repository: `neon init DIR`.",
      });
    }
    if (args.value === undefined && found.key.required) {
      throw new NeonError(ErrorCode.Usage, `${args.key} must have a value`);
    }
    const value = args.value === undefined ? undefined : parseValue(args.key, found.key.type, args.value);
    await repository.changeSetting(args.key, value);
    const shown = found.key.secret ? "***" : String(value);
    this.print(value === undefined ? `Removed ${args.key}` : `${args.key} = ${shown}`);
    if (args.key.startsWith("pageserver.")) {
      this.say("It holds from the next start on: `neon stop` and `neon start`.");
    }
    return { key: args.key, value: found.key.secret && value !== undefined ? shown : (value ?? null) };
  }
}

function parseValue(key: string, type: ConfigKey["type"], text: string): ConfigValue {
  if (type === "text") return text;
  if (type === "boolean") {
    if (text === "true" || text === "false") return text === "true";
    throw new NeonError(ErrorCode.Usage, `${key} is true or false, not "${text}"`);
  }
  if (/^-?\d{1,15}$/.test(text)) return Number(text);
  throw new NeonError(ErrorCode.Usage, `${key} is a whole number, not "${text}"`, {
    hint: `Write it with digits: \`neon config set ${key} 5432\`.`,
  });
}
