{{/*
What an operator decides about sidecars, with its defaults: the same members as the injector's policy file.

    include "tokengate.policy" (dict "policy" .Values.tokengate)

gives YAML. `settings` and `providers` are taken whole: what is given replaces the defaults.
*/}}
{{- define "tokengate.policy" -}}
{{- $default := fromYaml (include "tokengate.policy.defaults" .) -}}
{{- $given := default (dict) .policy -}}
{{- $policy := mergeOverwrite $default (omit $given "settings" "providers") -}}
{{- if hasKey $given "settings" -}}{{- $_ := set $policy "settings" $given.settings -}}{{- end -}}
{{- if hasKey $given "providers" -}}{{- $_ := set $policy "providers" $given.providers -}}{{- end -}}
{{- if eq (int $policy.port) (int $policy.statusPort) -}}{{- fail "policy: port and statusPort are the same" -}}{{- end -}}
{{- toYaml $policy -}}
{{- end -}}

{{- define "tokengate.policy.defaults" -}}
image: ghcr.io/tokengate/tokengate:0.1.0
imagePullPolicy: IfNotPresent
imagePullSecrets: []
form: native
port: 15800
statusPort: 15890
user: 65532
providers: [openai]
providerKeysSecret: tokengate-provider-keys
redisSecret: tokengate-redis
agentFrom: workload
session: header
settings:
  DEFAULT_BUDGET: "10.00"
  AGENT_BUDGET: "100.00"
  AGENT_BUDGET_PERIOD: day
resources:
  cpuRequest: 25m
  memoryRequest: 64Mi
  memoryLimit: 256Mi
egress:
  mode: none
  allow: []
optOut: true
nodeAccess: false
{{- end -}}

{{/* The variable (and the Secret's key, and the file) that holds a provider's key. */}}
{{- define "tokengate.providerKey" -}}
{{- get (dict "openai" "OPENAI_API_KEY" "anthropic" "ANTHROPIC_API_KEY" "gemini" "GEMINI_API_KEY") . | required (printf "policy.providers: %s is none" .) -}}
{{- end -}}
