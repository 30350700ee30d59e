{{/*
The sidecar: the first of a pod's initContainers (form: native, the default), or the first of its containers (form: legacy).

    initContainers:
      {{- include "tokengate.container" (dict "policy" .Values.tokengate) | nindent 6 }}

It is what the injector adds to a pod; both are held to one golden file.
*/}}
{{- define "tokengate.container" -}}
{{- $policy := fromYaml (include "tokengate.policy" .) -}}
- name: tokengate
  image: {{ $policy.image }}
  imagePullPolicy: {{ $policy.imagePullPolicy }}
  {{- if eq $policy.form "native" }}
  restartPolicy: Always
  {{- end }}
  args: [serve, --role, sidecar]
  env:
    - name: HOST
      value: 127.0.0.1
    - name: PORT
      value: {{ $policy.port | int | quote }}
    - name: STATUS_PORT
      value: {{ $policy.statusPort | int | quote }}
    - name: TENANT
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.namespace
    - name: AGENT
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.annotations['tokengate.io/agent']
    {{- if eq $policy.session "strict" }}
    - name: STRICT_MODE
      value: "true"
    {{- else }}
    - name: {{ ternary "SESSION_ID" "DEFAULT_SESSION" (eq $policy.session "pod") }}
      valueFrom:
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.name
    {{- end }}
    {{- range $name, $value := omit $policy.settings "SHUTDOWN_GRACE_S" }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
    {{- range $policy.providers }}
    - name: {{ include "tokengate.providerKey" . }}_FILE
      value: /etc/tokengate/secrets/{{ include "tokengate.providerKey" . }}
    {{- end }}
    - name: REDIS_URL_FILE
      value: /etc/tokengate/secrets/REDIS_URL
    - name: DATA_DIR
      value: /tmp/tokengate
    - name: SHUTDOWN_GRACE_S
      value: {{ default "20" $policy.settings.SHUTDOWN_GRACE_S | quote }}
  ports:
    - name: tg-metrics
      containerPort: {{ $policy.statusPort | int }}
      protocol: TCP
  resources:
    requests:
      cpu: {{ $policy.resources.cpuRequest }}
      memory: {{ $policy.resources.memoryRequest }}
    limits:
      memory: {{ $policy.resources.memoryLimit }}
  startupProbe:
    {{- include "tokengate.probe" (list "/readyz" 1 1 60) | nindent 4 }}
  livenessProbe:
    {{- include "tokengate.probe" (list "/livez" 10 2 6) | nindent 4 }}
  readinessProbe:
    {{- include "tokengate.probe" (list "/readyz" 5 2 3) | nindent 4 }}
  securityContext:
    {{- include "tokengate.securityContext" $policy.user | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: tokengate-secrets
      mountPath: /etc/tokengate/secrets
      readOnly: true
    - name: tokengate-tmp
      mountPath: /tmp
{{- end -}}

{{/* A list of path, period, timeout (both in seconds) and failures. */}}
{{- define "tokengate.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: tg-metrics
  scheme: HTTP
periodSeconds: {{ index . 1 }}
timeoutSeconds: {{ index . 2 }}
failureThreshold: {{ index . 3 }}
{{- end -}}

{{/* What every container of TokenGate may do; its argument is the user. Pod Security "restricted", and no writing. */}}
{{- define "tokengate.securityContext" -}}
runAsNonRoot: true
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
What the sidecar mounts; both Secrets are looked for in the pod's own namespace.

    volumes:
      {{- include "tokengate.volumes" (dict "policy" .Values.tokengate) | nindent 6 }}
*/}}
{{- define "tokengate.volumes" -}}
{{- $policy := fromYaml (include "tokengate.policy" .) -}}
- name: tokengate-secrets
  projected:
    defaultMode: 0444
    sources:
      - secret:
          name: {{ $policy.providerKeysSecret }}
          items:
            {{- range $policy.providers }}
            - key: {{ include "tokengate.providerKey" . }}
              path: {{ include "tokengate.providerKey" . }}
            {{- end }}
      - secret:
          name: {{ $policy.redisSecret }}
          items:
            - key: REDIS_URL
              path: REDIS_URL
- name: tokengate-tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end -}}

{{/*
What every other container of the pod gets, init containers too: all three providers, so that none is reached by another way.

    env:
      {{- include "tokengate.agentEnv" (dict "policy" .Values.tokengate) | nindent 6 }}

With `url` it points at a gateway instead of the sidecar: (dict "url" "http://tokengate-gateway.tokengate.svc").
*/}}
{{- define "tokengate.agentEnv" -}}
{{- $policy := fromYaml (include "tokengate.policy" .) -}}
{{- $url := default (printf "http://127.0.0.1:%d" (int $policy.port)) .url -}}
- name: OPENAI_BASE_URL
  value: {{ $url }}/v1
- name: OPENAI_API_KEY
  value: dummy-key
- name: ANTHROPIC_BASE_URL
  value: {{ $url }}
- name: ANTHROPIC_API_KEY
  value: dummy-key
- name: GOOGLE_GEMINI_BASE_URL
  value: {{ $url }}
- name: GEMINI_API_KEY
  value: dummy-key
{{- end -}}

{{/* Of the pod: include "tokengate.labels" . */}}
{{- define "tokengate.labels" -}}
tokengate.io/sidecar: "true"
{{- end -}}

{{/* Of the pod: include "tokengate.annotations" (dict "agent" "my-agent"). All pods of an agent share its budget. */}}
{{- define "tokengate.annotations" -}}
tokengate.io/agent: {{ required "the agent's name: (dict \"agent\" \"my-agent\")" .agent | quote }}
{{- end -}}

{{/*
The init container of egress: drop, before all others of the pod. It alone may set rules for the pod's network, and is
done before the agent starts; it does not meet Pod Security "restricted", nor "baseline".

    include "tokengate.egress" (dict "policy" .Values.tokengate "allow" (list "10.0.0.0/8"))

`allow`: what the agent may reach besides the gate, as addresses and networks. The agent must not run as root.
*/}}
{{- define "tokengate.egress" -}}
{{- $policy := fromYaml (include "tokengate.policy" .) -}}
{{- $v4 := list "127.0.0.0/8" -}}
{{- $v6 := list "::1" -}}
{{- range default $policy.egress.allow .allow -}}
{{- if contains ":" . -}}{{- $v6 = append $v6 . -}}{{- else -}}{{- $v4 = append $v4 . -}}{{- end -}}
{{- end -}}
- name: tokengate-egress
  image: {{ $policy.image }}
  imagePullPolicy: {{ $policy.imagePullPolicy }}
  command: [nft]
  args:
    - --define
    - gate_uid={{ int $policy.user }}
    - --define
    - allowed_v4={ {{- join ", " $v4 -}} }
    - --define
    - allowed_v6={ {{- join ", " $v6 -}} }
    - --file
    - /etc/tokengate/egress.nft
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
    limits:
      memory: 64Mi
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
    seccompProfile:
      type: RuntimeDefault
  terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}
