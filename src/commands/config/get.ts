import { string as stringArg } from "@oclif/core/args";
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class ConfigGet extends BaseCommand {
  static override summary = "Print one setting.";
  static override description =
    "The value alone, secrets included. A setting that nothing sets is not found (exit code 3).";
  static override examples = [
    "<%= config.bin %> config get pageserver.listen",
    "<%= config.bin %> config get computes.main.port",
  ];
  static override args = {
    key: stringArg({ description: "Its name, as `neon config list` shows it.", required: true }),
  };

  async run(): Promise<JsonFields> {
    const { args, flags } = await this.parse(ConfigGet);
    const repository = await this.findRepository(flags);
    const { findConfigKey } = await import("../../repository/config-keys.ts");
    const { unknownKey } = await import("../../repository/config.ts");
    const { showSetting } = await import("../shared/settings-view.ts");
    const found = findConfigKey(args.key);
    if (!found) throw unknownKey(args.key);
    const setting = showSetting(args.key, found.key, repository.settings, process.env);
    if (setting.value === null) {
      throw new NeonError(ErrorCode.NotFound, `${args.key} is not set`, {
        hint: `Set it with \`neon config set ${args.key} VALUE\`. ${found.key.description}`,
      });
    }
    this.print(String(setting.value));
    return { key: args.key, value: setting.value, origin: setting.origin };
  }
}
