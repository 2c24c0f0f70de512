FROM python:3.12-slim
RUN useradd --create-home --uid 1000 gateway
WORKDIR /app
COPY pyproject.toml constraints.txt ./
COPY workloads/__init__.py workloads/
COPY workloads/plan.py workloads/spec.py workloads/
COPY workloads/week10_serving workloads/week10_serving
RUN pip install --no-cache-dir --constraint constraints.txt click httpx numpy pillow prometheus-client starlette uvicorn
USER 1000
EXPOSE 8080
# exec form: SIGTERM reaches the gateway, which drains
ENTRYPOINT ["python", "-m", "workloads.week10_serving", "gateway", "--host", "0.0.0.0", "--port", "8080"]
