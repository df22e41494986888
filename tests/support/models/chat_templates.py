# SPDX-License-Identifier: Apache-2.0
"""Chat templates written for the tests, in the styles that instruct models come with."""

# Special tokens around every message, default system prompt, whitespace control, generation tag.
MARKUP = """
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = 'Answer briefly.' -%}
    {%- set rest = messages -%}
{%- endif -%}
<|system|>{{ system }}<|end|>
{% for message in rest %}
    {% if message.role not in ['user', 'assistant', 'tool'] %}
        {{ raise_exception('no such role: ' ~ message.role) }}
    {% endif %}
    {% if message.role == 'assistant' %}
        {% generation %}
<|assistant|>{{ message.content }}<|end|>
        {% endgeneration %}
    {% elif message.role == 'tool' %}
<|tool|>{{ message.result | tojson }}<|end|>
    {% else %}
<|user|>{{ message.content }}<|end|>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
"""

# Strict turns, macros, namespaces, loop controls, content in parts, the date.
INSTRUCT = """
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type != 'text' -%}{%- continue -%}{%- endif -%}
            {{- part.text -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{- bos_token }}
{%- set ns = namespace(turn=0, system='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- if not loop.first %}{{- raise_exception('system must come first') }}{% endif %}
        {%- set ns.system = text_of(message['content']) + '\n\n' %}
    {%- else %}
        {%- if (message['role'] == 'user') != (ns.turn % 2 == 0) %}
            {{- raise_exception('user and assistant must take turns') }}
        {%- endif %}
        {%- if message['role'] == 'user' %}
            {{- ' [INST] ' + (ns.system if ns.turn == 0 else '') + text_of(message['content']) }}
            {{- ' [/INST]' }}
        {%- else %}
            {{- ' ' ~ text_of(message['content']) | trim ~ eos_token }}
        {%- endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
{%- endfor %}
{%- if strftime_now is defined and messages | length > 99 %}{{- strftime_now('%Y') }}{% endif %}
"""

# As ChatML: what stands before an answer in the history is what asks for it.
CHATML = """
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""

# Control tokens of their own per role, no line ends, messages trimmed.
ROLES = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{{ message.content | trim }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# The style of the trained checkpoints: ordinary text around questions, a space before answers.
PLAIN_INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "[INST] {{ message.content }} [/INST]{% else %} {{ message.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)

TEMPLATES = {
    "markup": MARKUP,
    "instruct": INSTRUCT,
    "chatml": CHATML,
    "roles": ROLES,
    "plain-instruct": PLAIN_INSTRUCT,
}
