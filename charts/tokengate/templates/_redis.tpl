{{/* (list $ "sidecar"): the URL of the store, with the user and the password of sidecars or of the administrator. */}}
{{- define "tg.redisUrl" -}}
{{- $root := index . 0 -}}
{{- if eq $root.Values.redis.mode "trial" -}}
redis://tokengate-{{ index . 1 }}:{{ include "tg.trialPassword" $root }}@{{ include "tg.fullname" $root }}-redis-trial.{{ $root.Release.Namespace }}.svc:6379
{{- else -}}
{{- with $root.Values.redis.external -}}
{{- $user := index . (index $ 1) -}}
{{- $scheme := ternary "rediss" "redis" .tls -}}
{{- if ne .kind "single" }}{{ $scheme = printf "%s+%s" $scheme .kind }}{{ end -}}
{{ $scheme }}://{{ $user.user | urlquery }}:{{ $user.password | urlquery | replace "+" "%20" }}@{{ join "," .hosts }}
{{- if eq .kind "sentinel" }}/{{ .master }}{{ end -}}
{{- if and (ne .kind "cluster") .database }}/{{ int .database }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The password of the trial Redis: the one given, the one kept in the cluster, or a new one (the same for the whole rendering). */}}
{{- define "tg.trialPassword" -}}
{{- if not (hasKey .Release "trialPassword") -}}
{{- $password := .Values.redis.trial.password -}}
{{- if not $password -}}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (printf "%s-redis-trial" (include "tg.fullname" .)) -}}
{{- $password = ternary (get (default (dict) $kept.data) "password" | b64dec) (randAlphaNum 32) (not (empty $kept)) -}}
{{- end -}}
{{- $_ := set .Release "trialPassword" $password -}}
{{- end -}}
{{- .Release.trialPassword -}}
{{- end -}}
