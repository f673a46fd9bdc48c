import { boolean } from "@oclif/core/flags";
import { BaseCommand, type JsonFields } from "../shared/base-command.ts";

export default class ConfigList extends BaseCommand {
  static override summary = "List all settings with their values and where they come from.";
  static override description =
    "Origins: `file` is .neon/config.toml, `environment` a variable that wins over it, `default` what holds without " +
    "either. Every key is explained in .neon.example.toml.";
  static override examples = ["<%= config.bin %> config list", "<%= config.bin %> config list --json"];
  static override flags = {
    "show-secrets": boolean({ default: false, summary: "Print tokens and passwords too." }),
  };

  async run(): Promise<JsonFields> {
    const { flags } = await this.parse(ConfigList);
    const repository = await this.findRepository(flags);
    const { shownSettings, shownValue } = await import("../shared/settings-view.ts");
    const { formatTable } = await import("../shared/output.ts");
    const settings = shownSettings(repository.settings, process.env);
    const value = (setting: (typeof settings)[number]): string => shownValue(setting, flags["show-secrets"]);
    this.print(
      formatTable(
        ["KEY", "ORIGIN", "VALUE"],
        settings.map((setting) => [setting.key, setting.origin, value(setting)]),
      ),
    );
    return {
      path: repository.configPath,
      settings: settings.map((setting) => ({
        key: setting.key,
        value: typeof setting.value === "string" ? value(setting) : setting.value,
        origin: setting.origin,
      })),
    };
  }
}
