{{/* The certificate of mode helm: kept once it is there, made otherwise; the same for the whole rendering. As YAML. */}}
{{- define "tg.helmCertificate" -}}
{{- if not (hasKey .Release "tgCertificate") -}}
{{- $service := printf "%s-injector" (include "tg.fullname" .) -}}
{{- $names := list (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) -}}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (include "tg.tlsSecret" .) -}}
{{- if $kept -}}
{{- $_ := set .Release "tgCertificate" (dict "ca" (index $kept.data "ca.crt") "crt" (index $kept.data "tls.crt") "key" (index $kept.data "tls.key")) -}}
{{- else -}}
{{- $days := int .Values.certificates.validityDays -}}
{{- $ca := genCA (printf "%s-ca" $service) $days -}}
{{- $made := genSignedCert (first $names) (list) $names $days $ca -}}
{{- $_ := set .Release "tgCertificate" (dict "ca" (b64enc $ca.Cert) "crt" (b64enc $made.Cert) "key" (b64enc $made.Key)) -}}
{{- end -}}
{{- end -}}
{{- toYaml .Release.tgCertificate -}}
{{- end -}}

{{- define "tg.helmBundle" -}}
{{- get (fromYaml (include "tg.helmCertificate" .)) "ca" -}}
{{- end -}}

{{/* The pod of a job that sees to the certificate, once or on a schedule. */}}
{{- define "tg.certificatesPod" -}}
{{- $name := printf "%s-injector" (include "tg.fullname" .) -}}
metadata:
  labels:
    {{- include "tg.podLabels" (list . "certificates") | nindent 4 }}
spec:
  {{- include "tg.podSpec" (list . "certificates") | replace "automountServiceAccountToken: false" "automountServiceAccountToken: true" | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: certificates
      image: {{ include "tg.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - injector
        - certs
        - --namespace={{ .Release.Namespace }}
        - --service={{ $name }}
        - --secret={{ include "tg.tlsSecret" . }}
        - --webhooks={{ $name }}
        - --days={{ .Values.certificates.validityDays }}
        - --renew-before-days={{ .Values.certificates.job.renewBeforeDays }}
      resources:
        requests:
          cpu: 50m
          memory: 64Mi
        limits:
          memory: 192Mi
      securityContext:
        {{- include "tokengate.securityContext" 65532 | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts:
        - name: tmp
          mountPath: /tmp
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 16Mi
{{- end -}}
