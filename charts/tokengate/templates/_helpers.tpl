{{- define "tg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of parts are added to it: at most 63 characters in all. */}}
{{- define "tg.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "tg.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tg.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (list $ "injector"): which pods a part has. */}}
{{- define "tg.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "tg.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* (list $ "injector"): the labels of an object of a part. */}}
{{- define "tg.labels" -}}
{{- $root := index . 0 -}}
{{ include "tg.selector" . }}
app.kubernetes.io/part-of: tokengate
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list $ "injector"): the labels of a part's pods. TokenGate's own pods are never gated. */}}
{{- define "tg.podLabels" -}}
{{ include "tg.labels" . }}
tokengate.io/inject: "false"
{{- end -}}

{{- define "tg.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tg.policyEgress" -}}
{{- if eq .Values.egress.mode "drop" -}}
{{- dict "mode" "drop" "allow" .Values.egress.allow | toYaml -}}
{{- else -}}
{{- dict "mode" "none" "allow" list | toYaml -}}
{{- end -}}
{{- end -}}

{{/* The injector's policy, as its file and as the library chart take it. */}}
{{- define "tg.policy" -}}
{{- $policy := mergeOverwrite (dict) .Values.policy (dict "image" (include "tg.image" .) "imagePullPolicy" .Values.image.pullPolicy "imagePullSecrets" .Values.image.pullSecrets "egress" (include "tg.policyEgress" . | fromYaml)) -}}
{{- include "tokengate.policy" (dict "policy" $policy) -}}
{{- end -}}

{{/* (list $ "injector"): what the pods of all parts have in common. */}}
{{- define "tg.podSpec" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "tg.fullname" $root }}-{{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* (list $ "console"): where the pods of a part run. */}}
{{- define "tg.placement" -}}
{{- with index . 1 }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (list $ "injector"): keep the pods of a part apart from each other. */}}
{{- define "tg.apart" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "tg.selector" . | nindent 12 }}
{{- end -}}

{{/* A map of settings as variables of a container. */}}
{{- define "tg.settings" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* (list $ .Values.console.tenant): whom a part is about that looks after agents, if it is not said: those who are gated here. */}}
{{- define "tg.tenant" -}}
{{- $values := (index . 0).Values -}}
{{- if index . 1 -}}
{{- index . 1 -}}
{{- else if and $values.gateway.enabled (not $values.injector.enabled) -}}
{{- $values.gateway.tenant -}}
{{- else -}}
{{- first $values.namespaces | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The settings of gates that whoever looks after their budgets has to share, as a map. */}}
{{- define "tg.budgets" -}}
{{- $gates := .Values.policy.settings -}}
{{- if and .Values.gateway.enabled (not .Values.injector.enabled) }}{{ $gates = .Values.gateway.settings }}{{ end -}}
{{- pick $gates "DEFAULT_BUDGET" "DEFAULT_BUDGET_PERIOD" "AGENT_BUDGET" "AGENT_BUDGET_PERIOD" "TENANT_BUDGET" "TENANT_BUDGET_PERIOD" "BUDGET_TIMEZONE" "ALERT_THRESHOLDS" | toYaml -}}
{{- end -}}

{{- define "tg.tlsSecret" -}}
{{- default (printf "%s-injector-tls" (include "tg.fullname" .)) .Values.certificates.secretName -}}
{{- end -}}

{{- define "tg.tokenSecret" -}}
{{- default (printf "%s-admin-token" (include "tg.fullname" .)) .Values.console.tokenSecret -}}
{{- end -}}

{{- define "tg.gatewayUrl" -}}
{{- $port := int .Values.gateway.service.port -}}
http://{{ include "tg.fullname" . }}-gateway.{{ .Release.Namespace }}.svc{{ if ne $port 80 }}:{{ $port }}{{ end }}
{{- end -}}

{{/* Name service, as an egress rule. */}}
{{- define "tg.dns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* What cannot be said by the schema. */}}
{{- define "tg.check" -}}
{{- if and .Values.admissionPolicy.enabled (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "admissionPolicy needs Kubernetes 1.30, this is %s: set admissionPolicy.enabled to false" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq .Values.egress.mode "gateway") (not .Values.gateway.enabled) -}}
{{- fail "egress.mode is gateway: set gateway.enabled to true" -}}
{{- end -}}
{{- if and (eq .Values.egress.mode "gateway") (not .Values.namespaces) -}}
{{- fail "egress.mode is gateway: name the agents' namespaces in namespaces" -}}
{{- end -}}
{{- if eq .Values.redis.mode "external" -}}
{{- with .Values.redis.external -}}
{{- if not .hosts -}}{{- fail "redis.mode is external: name the server in redis.external.hosts" -}}{{- end -}}
{{- if and (eq .kind "sentinel") (not .master) -}}{{- fail "redis.external.kind is sentinel: name the master in redis.external.master" -}}{{- end -}}
{{- if and (ne .kind "sentinel") .master -}}{{- fail "redis.external.master is for kind sentinel" -}}{{- end -}}
{{- if and (eq .kind "cluster") (ne (int .database) 0) -}}{{- fail "redis.external.database: a Cluster has only 0" -}}{{- end -}}
{{- if and (eq .kind "single") (ne (len .hosts) 1) -}}{{- fail "redis.external.hosts: kind single has one" -}}{{- end -}}
{{- if or (not .sidecar.password) (not .admin.password) -}}{{- fail "redis.external: give sidecar.password and admin.password, or make the Secrets yourself (redis.mode: existing)" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.providerKeys.create (not .Values.providerKeys.values) -}}
{{- fail "providerKeys.create: give the keys in providerKeys.values" -}}
{{- end -}}
{{- end -}}
